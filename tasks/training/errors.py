"""What can go wrong in training: one hierarchy, each error a sentence that says what to change."""


class TrainingError(Exception):
    """Base of every error of this package; carries one message, so it survives pickling."""


class AdapterError(TrainingError):
    """The recipe's `target_modules` do not fit the model, or the model has nothing to adapt."""


class MethodUnavailable(TrainingError):
    """This machine lacks what the recipe's `method` needs."""


class RowError(TrainingError):
    """A row can't be trained on: empty, of unequal lengths, without a label, or longer than the model takes."""


class CheckpointMismatch(TrainingError):
    """A complete checkpoint exists, but belongs to another recipe, data set, device or model."""


class BestCheckpointLost(TrainingError):
    """The checkpoint of the lowest held-out loss is to be registered, and is damaged or gone."""


class NonFiniteLoss(TrainingError):
    """The loss or its gradient is no longer a number."""


class OutOfMemory(TrainingError):
    """The device can't hold a training step."""


class TooFewDevices(TrainingError):
    """The recipe asks for more GPUs than there are."""


class RankLost(TrainingError):
    """The process of another device has died, and the run with it; it can go on from its newest checkpoint."""


class DoesNotFit(TrainingError):
    """No plan of the run fits in memory; raised before it starts. Sizes are in bytes; None: nothing would fit."""

    def __init__(
        self, message: str, needed: int, available: int, batch_size: int | None, length: int | None, shards: bool
    ) -> None:
        super().__init__(message, needed, available, batch_size, length, shards)
        self.message = message
        self.needed = needed
        self.available = available
        self.batch_size = batch_size
        """Most rows at once at the length that was asked for."""
        self.max_seq_length = length
        """Longest rows, one at once."""
        self.sharding = "auto" if shards else None
        """What the recipe may say of sharding instead, to fit as it is otherwise."""

    def __str__(self) -> str:
        return self.message
