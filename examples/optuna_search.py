"""A search for settings with Optuna, on any backend: trials that fall behind are ended by `on_epoch`."""

import optuna

from ptycho_backends import ExecutionConfig, ModelConfig, TrainingConfig, get_backend
from ptycho_backends.scans.simulate import simulate_star


def objective(trial, scan, backend, epochs):
    network = ModelConfig(
        N=scan.N, architecture="unrolled", gridsize=1, n_steps=trial.suggest_int("n_steps", 2, 8, step=2)
    )
    execution = ExecutionConfig(
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 2e-2, log=True),
        enable_progress_bar=False,
    )

    def on_epoch(record):
        trial.report(record.val_loss, record.epoch)
        return trial.should_prune()  # True ends training, and the model so far is returned

    config = TrainingConfig(model=network, nepochs=epochs)
    model = backend.train(scan, config, execution=execution, on_epoch=on_epoch)
    if model.interrupted:
        raise optuna.TrialPruned
    return model.history[-1].val_loss


def main(N=64, trials=20, epochs=10, backend=None):
    scan = simulate_star(N, 100, seed=0)
    study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    study.optimize(lambda trial: objective(trial, scan, get_backend(backend), epochs), n_trials=trials)
    return study


if __name__ == "__main__":
    print(main().best_params)
