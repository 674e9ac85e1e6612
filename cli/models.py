"""`tercet models`: what can be served."""

import json
from typing import Annotated

import typer

from stages.models import MODELS, front

models_app = typer.Typer(help="The models that this installation can serve.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models by name."""
    typer.echo(json.dumps(sorted(MODELS)) if as_json else "\n".join(sorted(MODELS)))


@models_app.command()
def vocab(model: Annotated[str, typer.Argument(help="Name of a model.")], as_json: AsJson = False) -> None:
    """List the words that a closed-vocabulary model can read."""
    if model not in MODELS:
        typer.echo(f"tercet: no model {model!r}; `tercet models list` names them", err=True)
        raise typer.Exit(2)
    words = getattr(front(model), "words", None)
    if words is None:
        typer.echo(f"tercet: {model} reads any text", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps(words) if as_json else " ".join(words))
