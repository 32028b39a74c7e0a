"""What every command shows a person: errors that name their cause and cure as one message, and frames as tables."""

from __future__ import annotations

import os

import click
import polars as pl

from io_managers.artifacts import ArtifactError
from io_managers.tables import DamagedPartition
from resources.compute.interface import SiteUnavailable

_RECOVERABLE = (ValueError, OSError, ArtifactError, DamagedPartition, SiteUnavailable)


class Group(click.Group):
    """Shows errors that name their cause and cure as one message."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except _RECOVERABLE as error:
            if os.environ.get("TRACEBED_TRACEBACK"):
                raise
            raise click.ClickException(str(error)) from error


def print_frame(frame: pl.DataFrame) -> None:
    """Print all rows and columns of a frame."""
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=220, fmt_str_lengths=120, tbl_hide_dataframe_shape=True):
        click.echo(str(frame))
