"""The `hat` command: its subcommands, and how failures become one line and an exit code."""

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from hat import __version__
from hat.commands.adapter import adapter
from hat.commands.audit import audit
from hat.commands.bench import bench
from hat.commands.bundle import bundle
from hat.commands.chat import chat
from hat.commands.codec_eval import codec_eval
from hat.commands.doctor import doctor
from hat.commands.programs import cloud, device
from hat.commands.service import service
from hat.commands.sign import sign
from hat.commands.split import split
from hat.commands.status import status
from hat.commands.token import token
from hat.commands.up import up
from hat.commands.verify import verify
from hat.early_interrupt import INTERRUPTED, leave_at_once, raise_again
from hat.service.description import LAUNCHD, SUPERVISOR_VARIABLE
from process.errors import ConfigError, UserError

OK = 0
FAILED = 1
USAGE = 2

_EPILOG = """
\b
First steps:
  hat up                           try it with a small model
  hat up Qwen/Qwen3-0.6B           any Llama, Mistral, Qwen2 or Qwen3 model
  hat chat                         talk to it from a second terminal
  hat status                       how both sides are

\b
On two machines:
  hat split MODEL --out DIR        where the checkpoint is
  hat cloud DIR/cloud              on the GPU server
  hat device DIR/device            beside the user
"""


class _InThisOrder(click.Group):
    """Lists the commands as they were added: what a newcomer needs first comes first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InThisOrder,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="hat %(version)s", help="Print the version and exit.")
@click.pass_context
def hat(context: click.Context) -> None:
    """A large language model split between this device and a cloud.

    The device holds the first and last layers and serves an OpenAI-compatible endpoint; the
    cloud runs the layers between. Only hidden states travel.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    *(up, split, cloud, device, chat, status, doctor, token, service),
    *(adapter, verify, sign, codec_eval, audit, bench, bundle),
):
    hat.add_command(_command)


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    raise_again()
    try:
        code = run(sys.argv[1:])
    finally:
        # What the interpreter does at its end is not the user's business.
        leave_at_once()
    sys.exit(as_supervisor_reads(code, os.environ))


def as_supervisor_reads(code: int, environ: Mapping[str, str]) -> int:
    """The exit code that has the supervisor which started this process do what `code` means.

    launchd starts again whatever does not end with 0, and can be told of no other code. What
    somebody has to mend first ends with 0 there, and a line that says so.
    """
    if code != USAGE or environ.get(SUPERVISOR_VARIABLE) != LAUNCHD:
        return code
    return _report("not to be started again as it is, so launchd is told that all is well", OK)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; failures that are not bugs become a line on stderr.

    Returns:
        0, or 1 when the command failed, 2 when it was called wrongly, 130 when interrupted.
    """
    try:
        result = hat.main(args=list(arguments), prog_name="hat", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        # A group of commands without one of them.
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        return _report(_usage_message(error), USAGE)
    except ConfigError as error:
        return _report(str(error), USAGE)
    except UserError as error:
        return _report(str(error), FAILED)
    except OSError as error:
        # What is printed may go into a file on a full disk.
        if error.errno != errno.ENOSPC:
            raise
        return _report(os.strerror(errno.ENOSPC).lower(), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", INTERRUPTED)
    return result if isinstance(result, int) else OK


def _usage_message(error: click.ClickException) -> str:
    message = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    return f"{message}\nTry '{context.command_path} --help'."


def _report(message: str, code: int) -> int:
    click.echo(f"hat: {message}", err=True)
    return code
