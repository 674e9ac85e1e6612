"""`tercet models`: what can be served."""

import json
from typing import Annotated

import typer

from cli.refuse import MISTAKEN, UNSERVED, refuse
from stages.front import ModelUnavailable
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
        refuse(f"no model {model!r}; `tercet models list` names them", MISTAKEN)
    try:
        words = getattr(front(model), "words", None)
    except ModelUnavailable as error:
        refuse(str(error), UNSERVED)
    if words is None:
        refuse(f"{model} has no list of words: it reads any text", UNSERVED)
    typer.echo(json.dumps(words) if as_json else " ".join(words))
