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
