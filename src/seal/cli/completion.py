"""Print the script that completes commands, options and presets in bash, zsh or fish.

The script holds the words themselves, so that a press of Tab starts no Python; make it anew after an update.
"""

from __future__ import annotations

from enum import StrEnum
from shlex import quote
from typing import Annotated

from typer import Argument

_BASH = """\
_seal() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
    if ((COMP_CWORD == 1)); then
        words={verbs}
    elif [[ $before == --preset || ( ${{COMP_WORDS[1]}} == presets && $COMP_CWORD -eq 2 ) ]]; then
        words={presets}
    elif [[ $current == -* || ${{COMP_WORDS[1]}} == completion || ${{COMP_WORDS[1]}} == arc ]]; then
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    if [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _seal seal
"""
_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


class Shell(StrEnum):
    """Shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, Argument(help="The shell that you use.")]) -> None:
    """Print the script. For bash: seal completion bash > ~/.local/share/bash-completion/completions/seal

    For zsh: seal completion zsh > ~/.seal-completion, and `source ~/.seal-completion` in ~/.zshrc.
    For fish: seal completion fish > ~/.config/fish/completions/seal.fish
    """
    print(_fish() if shell is Shell.FISH else (_ZSH if shell is Shell.ZSH else "") + _bash(), end="")


def _words() -> dict[str, list[str]]:
    """What may follow each command: its options, and the names that it chooses from."""
    from seal.cli import parser, verbs

    found: dict[str, list[str]] = {}
    for verb in verbs():
        command = parser(verb)
        parts = list(getattr(command, "commands", {}).values())
        words = [part.name for part in parts]
        for part in parts or [command]:
            for parameter in part.params:
                words += [
                    option for option in (*parameter.opts, *parameter.secondary_opts) if option[0] == "-"
                ]
        found[verb] = list(dict.fromkeys([*words, "--help"]))
    found["completion"] = [*Shell, "--help"]
    return found


def _bash() -> str:
    from seal.config import preset_names

    words = _words()
    cases = "\n".join(f"            {verb}) words={quote(' '.join(each))} ;;" for verb, each in words.items())
    return _BASH.format(verbs=quote(" ".join(words)), presets=quote(" ".join(preset_names())), cases=cases)


def _fish() -> str:
    from seal.cli import summary
    from seal.config import preset_names

    lines = []
    for verb, words in _words().items():
        lines.append(f"complete -c seal -n __fish_use_subcommand -a {verb} -d {quote(summary(verb))}")
        after = f"-n '__fish_seen_subcommand_from {verb}'"
        for word in words:
            kind = "-l" if word.startswith("--") else "-s" if word.startswith("-") else "-a"
            values = f" -xa {quote(' '.join(preset_names()))}" if word == "--preset" else ""
            lines.append(f"complete -c seal {after} {kind} {word.lstrip('-')}{values}")
    return "\n".join(lines) + "\n"
