"""A model as files of its own, from the data folder of this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from api.cli.failures import CommandFailed, WrongUsage
from api.cli.options import AsJson, ModelId
from api.cli.terminal import print_json, say


def export(
    model: ModelId,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make; it must not be there yet")],
    form: Annotated[
        Literal["merged", "peft", "gguf"],
        typer.Option(
            "--format",
            help="merged: whole weights as safetensors. peft: the adapter alone. gguf: one file for llama.cpp",
        ),
    ] = "merged",
    as_json: AsJson = False,
) -> None:
    """Write a model into a folder. It reads the platform's data folder (LLM_PLATFORM_DATA_DIR), not its API."""
    # Imported here: it brings torch.
    from transformers.utils.logging import disable_progress_bar

    from api.launcher.up import read_settings
    from registry.database import Database
    from registry.repositories.models import ModelRepository
    from registry.weights import WeightsUnavailable
    from tasks.models.errors import WeightsError
    from tasks.models.export import ExportImpossible, export_model
    from tasks.models.sources import ModelSource

    if folder.exists():
        raise WrongUsage(f"{folder} is there already: name a folder to make.")
    settings = read_settings()
    if settings.database_url is None and not (settings.data_dir / "platform.db").is_file():
        raise CommandFailed(f"{settings.data_dir} is no data folder of the platform: name it by LLM_PLATFORM_DATA_DIR.")
    disable_progress_bar()
    database = Database(settings.platform_database_url)
    try:
        with database.reading() as session:
            record = ModelRepository(session).get(model)
        if record is None:
            raise CommandFailed(f"There is no model with the id {model} in {settings.data_dir}.")
        exported = export_model(ModelSource(settings, record), form, folder.resolve())
    except (ExportImpossible, WeightsUnavailable, WeightsError, OSError) as error:
        raise CommandFailed(f"Model {model} can't be exported: {error}") from error
    finally:
        database.close()
    if as_json:
        print_json(
            {"model_id": model, "format": form, "folder": str(folder), "largest_difference": exported.difference}
        )
        return
    say(f"Model {model} is in {folder}: {', '.join(exported.files)}")
    if exported.difference is not None:
        say(f"Read back, its logits differ from the merged model's by at most {exported.difference:.2g}.")
