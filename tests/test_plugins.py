"""Entry points of other packages are read once, and those of a package that is installed later are found."""

from ptycho_backends import plugins

GROUP = "ptycho_backends.backends"


def install(folder, name):
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}:Backend\n")


def names():
    return [point.name for point in plugins.registered(GROUP)]


def test_installed_packages_are_read_once(monkeypatch):
    plugins.registered(GROUP)
    monkeypatch.setattr(plugins, "entry_points", None)
    plugins.registered(GROUP)


def test_a_package_that_is_installed_later_is_found(tmp_path, monkeypatch):
    before = names()
    install(tmp_path / "one", "first")
    monkeypatch.syspath_prepend(tmp_path / "one")
    assert sorted(names()) == sorted([*before, "first"])
    install(tmp_path / "one", "second")
    assert sorted(names()) == sorted([*before, "first", "second"])
    monkeypatch.undo()
    assert names() == before
