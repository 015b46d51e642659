"""A logger of your own, on PyTorch: any of Lightning's takes the losses of every epoch."""

from lightning.pytorch.loggers import Logger

from ptycho_backends import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_torch.backend.backend import TorchBackend


class ListLogger(Logger):
    """Keeps what it is told in a list."""

    name, version = "list", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, params, *args, **kwargs):
        self.rows.append(dict(params))

    def log_metrics(self, metrics, step=None):
        self.rows.append({"step": step, **metrics})


def main(N=64, epochs=5):
    logger = ListLogger()
    network = ModelConfig(N=N, architecture="unrolled", gridsize=1)
    model = TorchBackend(loggers=[logger]).train(
        simulate_star(N, 60, seed=0),
        TrainingConfig(model=network, nepochs=epochs),
        execution=ExecutionConfig(enable_progress_bar=False, accelerator="cpu"),
    )
    return model, logger.rows


if __name__ == "__main__":
    print(main())
