"""Texts made to harm: YAML, CSV."""

from collections.abc import Iterator


def hostile_yaml() -> Iterator[tuple[str, bytes]]:
    merges = "a0: &a0 {" + ",".join(f"k{n}: 1" for n in range(9)) + "}\n"
    merges += "".join(f"a{n}: &a{n} {{<<: [" + f"*a{n - 1}," * 9 + "]}\n" for n in range(1, 9))
    laughs = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{n}: &a{n} [" + f"*a{n - 1}," * 9 + "]\n" for n in range(1, 9)
    )
    texts = {
        "merge keys": merges,
        "references": laughs,
        "many keys": "".join(f"k{n}: 1\n" for n in range(10_000)),
        "far too many keys": "".join(f"k{n}: 1\n" for n in range(100_000)),
        "a long hexadecimal integer": "seed: 0x" + "f" * 20_000,
        "a long binary integer": "seed: 0b" + "1" * 20_000,
        "a long integer": "seed: " + "9" * 5000,
        "sixty to many powers": "seed: " + "1:59" * 9 + ":59" * 9000,
        "a float of sixties": "nphotons: 1" + ":59" * 9000 + ".5",
        "!!bool abc": "seed: !!bool abc",
        "!!float abc": "seed: !!float abc",
        "!!int abc": "seed: !!int abc",
        "!!timestamp abc": "seed: !!timestamp abc",
        "!!binary": "seed: !!binary '@@@'",
        "!!set": "seed: !!set {a, b}",
        "!!omap": "seed: !!omap [a]",
        "!!null x": "seed: !!null x",
        "!!python": "seed: !!python/object/apply:os.system ['true']",
        "!!map of a text": "!!map abc",
        "a date": "seed: 2024-13-45",
        "brackets": "[" * 5000,
        "braces": "{a: " * 5000,
        "a list as key": "? [1]\n: 2",
        "twice": "seed: 1\nseed: 2",
        "two documents": "seed: 1\n---\nseed: 2",
        "a tab": "seed:\t\t1\n\tx",
        "a long key": "k" * 100_000 + ": 1",
        "a control sequence": 'backend: "\\e[2J"',
        "a nul": "seed: \0",
        "a list": "- 1",
        "nothing": "",
        "a reference to itself": "a: &a [*a]",
        "infinite": "nphotons: .inf",
        "an integer for a float": "nphotons: " + "9" * 60,
    }
    for name, text in texts.items():
        yield name, text.encode()
    yield "other bytes", bytes(range(128, 256))
    yield "UTF-16", "seed: 1".encode("utf-16")


def hostile_tables() -> Iterator[tuple[str, bytes]]:
    yield "one long line", b"1," * 3_000_000
    yield "no numbers", b"a,b\n" * 200_000
    yield "unequal rows", b"1,2\n" * 1000 + b"1\n"
    yield "words behind numbers", b"1,2\nx,y\n"
    yield "one column", b"1\n2\n"
    yield "nothing but lines", b"\n" * 1_000_000
    yield "bytes", bytes(range(1, 256)) * 100
    yield "not a number", b"nan,inf\n" * 10
    yield "many digits", b"1,2\n" + b"9" * 3000 + b",1\n"
    yield "a control sequence", b"1,2\n\x1b[2J,\x9b\n"
