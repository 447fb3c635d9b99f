"""The `register` task: what was trained stored, the model version registered, and a new model in the platform."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.orm import Session

from configs.dataset import BUILT_IN_DATASET_ID
from configs.recipe import ADAPTER_FIELDS, LONGEST_NAME, EvaluationParameters, TrainingRecipe
from registry.champions import RegisteredVersion
from registry.model_names import name_of_base
from registry.model_registry import register_version
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import evaluation_of_parameters
from registry.tables import Model, TrainingJob
from tasks.atomic_files import StagingFolder
from tasks.job.attempt import Attempt
from tasks.job.flow_run import require_run
from tasks.job.loss_curve import draw_loss_curve
from tasks.job.trace import Trace
from tasks.models.endings import write_end_ids
from tasks.prepare import Prepared
from tasks.train import Trained
from tasks.training.methods import METHODS

# A path, not an import: MLflow stores the file and runs it wherever the version is loaded.
PYFUNC_CODE = Path(__file__).parent / "models" / "pyfunc.py"


@task(cache_policy=NO_CACHE, persist_result=False)
def register(attempt: Attempt, prepared: Prepared, trained: Trained) -> None:
    """Store the adapter or the full model, log the artifacts, register the version, and make the model usable here.

    Each step finds what an earlier attempt has done already: a process that dies in between leaves no second model.
    """
    folder = _store(attempt, prepared, trained)
    curve = draw_loss_curve(Trace(attempt.files.trace), attempt.folder / "loss_curve.png")
    name = _registered_name(attempt)

    def publish() -> RegisteredVersion:
        attempt.run.log_file(curve)
        if not METHODS[attempt.recipe.method].full:  # a full model is large, and the version has it
            attempt.run.log_folder(folder, "adapter")
        attempt.watch.check_now()  # what is registered can't be taken back
        return _register_version(attempt, prepared, folder, name)

    version = attempt.deliver(publish, "take the artifacts and the model version")
    with attempt.lease.writing() as (session, job):
        require_run(job)
        model_id = _add_model(session, attempt, folder.name, version, trained.outcome.weights_step)
    attempt.log.line(f"Registered {version.name} version {version.version}; it is model {model_id} now")


def _registered_name(attempt: Attempt) -> str:
    with attempt.database.reading() as session:
        return name_of_base(session, attempt.model.base_model)


def _store(attempt: Attempt, prepared: Prepared, trained: Trained) -> Path:
    """Write what was trained, and the tokenizer, into a folder that gets its name when complete, and never changes."""
    method = METHODS[attempt.recipe.method]
    settings = attempt.settings
    folder = (settings.weights_dir if method.full else settings.adapters_dir) / attempt.job_uid
    if folder.is_dir():
        return folder
    staging = StagingFolder(folder.parent, folder.name)
    try:
        method.save(trained.model, staging.path, prepared.source)
        # With its chat template and end token: a model that answers must know where an answer ends.
        prepared.source.tokenizer.save_pretrained(staging.path)
        if method.full:
            write_end_ids(staging.path, prepared.source.known_end_ids)
        staging.path.chmod(0o755)
        staging.publish(folder)
    finally:
        staging.close()
    return folder


def _register_version(attempt: Attempt, prepared: Prepared, folder: Path, name: str) -> RegisteredVersion:
    return register_version(
        attempt.settings.mlflow_url,
        attempt.run.run_id,
        name,
        code=PYFUNC_CODE,
        artifacts={"model" if METHODS[attempt.recipe.method].full else "adapter": folder},
        model_config={
            "base_model": prepared.source.base_reference,
            "base_folder": str(prepared.source.base_folder),
            "dtype": str(prepared.source.dtype).removeprefix("torch."),
            "end_token_ids": prepared.source.known_end_ids,
        },
        tags={"training_job_uid": attempt.job_uid, "training_job_id": str(attempt.job_id)},
    )


def _add_model(session: Session, attempt: Attempt, stored: str, version: RegisteredVersion, weights_step: int) -> int:
    """Add the model, and the evaluations that show what the job has changed; all of it once."""
    models = ModelRepository(session)
    known = models.of_job(attempt.job_id)
    if known is not None:
        return known.id
    recipe, full = attempt.recipe, METHODS[attempt.recipe.method].full
    hyperparameters = recipe.hyperparameters()
    parameters: dict[str, Any] = {
        "parent_model_id": attempt.model.id,
        "training_job_id": attempt.job_id,
        "method": recipe.method,
        **{name: hyperparameters[name] for name in ADAPTER_FIELDS if name in hyperparameters},
        "mlflow_run_id": attempt.run.run_id,
        "registered_model": version.name,
        "registered_model_version": version.version,
        "weights_step": weights_step,
        "recipe": hyperparameters,
    }
    job = TrainingJobRepository(session).require(attempt.job_id)
    model = models.add(
        Model(
            created_by=job.created_by,
            name=attempt.job_name,
            base_model=attempt.model.base_model,
            status="AVAILABLE",
            description=f"Fine-tuned from {attempt.model.name} by training job {attempt.job_id}",
            model_size=attempt.model.model_size,
            parameters=parameters,
            adapter=None if full else stored,
            weights=stored if full else attempt.model.weights,
            parent_model_id=attempt.model.id,
            training_job_id=attempt.job_id,
        )
    )
    job.output_model_id = model.id
    if recipe.auto_evaluate:
        _request_evaluations(session, job, recipe, parent_model_id=attempt.model.id, model_id=model.id)
    return model.id


def _request_evaluations(
    session: Session, job: TrainingJob, recipe: TrainingRecipe, parent_model_id: int, model_id: int
) -> None:
    """Ask for an evaluation of the new model, and of the one trained from unless its numbers are there already.

    The API submits them to Prefect as it does those that clients ask for.
    """
    evaluations = EvaluationRepository(session)

    def parameters(model_id: int, moment: str) -> EvaluationParameters:
        name = f"{moment} job {job.id}: {job.job_name}"[:LONGEST_NAME]
        return EvaluationParameters(
            model_id=model_id,
            eval_name=name,
            dataset_id=recipe.dataset_id or BUILT_IN_DATASET_ID,
            held_out_dataset_id=recipe.held_out_dataset_id,
            # Both at the length that the new model was trained with: numbers of a model and its base must be about
            # the same tokens.
            max_seq_length=recipe.max_seq_length,
            # The new model has its format by itself.
            **(recipe.chat_format.model_dump() if model_id == parent_model_id else {}),
        )

    before = parameters(parent_model_id, "Before")
    base = evaluations.repeated(before) or evaluations.add(evaluation_of_parameters(before))
    job.base_evaluation_id = base.id
    job.output_evaluation_id = evaluations.add(evaluation_of_parameters(parameters(model_id, "After"))).id
