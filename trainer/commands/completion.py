"""``completion``: the shell completes commands, keys, options, values, run directories and checkpoints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from trainer.commands.wrapping import wrapped
from trainer.errors import TrainerError, UsageError, nearest

HELP = """Complete the command line of trainer in a shell.

  python -m trainer completion bash|zsh

It prints the shell's part, for a start file of the shell, such as ~/.bashrc or ~/.zshrc:

  eval "$(trainer completion bash)"
  eval "$(trainer completion zsh)"

Then the tab key completes commands, keys, options of groups, values that have names, directories of runs and their
checkpoints. It asks the program each time, so installed plug-ins are known; TensorFlow is not imported."""
ANSWER = "answer"  # what the shell's part asks for: completion answer SHELL LINE [WORDBREAKS]
# Where a candidate goes on (the last character says so), no space follows it; so bash is told to add none at all.
BASH = r"""_trainer_complete() {
  local IFS=$'\n'
  compopt -o nospace
  COMPREPLY=($("${COMP_WORDS[0]}" completion answer bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
}
complete -F _trainer_complete trainer"""
ZSH = r"""_trainer_complete() {
  local -a found
  found=("${(@f)$("${words[1]}" completion answer zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
  [[ -n "$found" ]] && compadd -Q -U -S '' -- "${found[@]}"
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -D }
compdef _trainer_complete trainer"""
SHELLS = {"bash": BASH, "zsh": ZSH}
SPECIAL = re.compile(r"([^\w@%+=:,./~\[\]-])", re.ASCII)


def main(arguments: Sequence[str], commands: Mapping[str, str]) -> int:
    if {"--help", "-h"} & set(arguments[:1]):
        print(wrapped(HELP))
        return 0
    if arguments[:1] == [ANSWER]:
        _, shell, line, *breaks = arguments
        print("\n".join(answers(shell, line, breaks[0] if breaks else "", commands)))
        return 0
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        given = " ".join(arguments)
        raise UsageError(f"completion needs the name of a shell, {' or '.join(SHELLS)}{nearest(given, SHELLS)}")
    print(SHELLS[arguments[0]])
    return 0


def answers(shell: str, line: str, breaks: str, commands: Mapping[str, str]) -> list[str]:
    """The lines that the shell's part takes as candidates for the word at the end of ``line``. ``breaks`` are the
    characters at which bash divides a word before it asks; it gets only what is behind the last of them.
    """
    words, typed, quote = divided(line)
    from trainer.commands.candidates import candidates  # Hydra, which takes a third of a second

    try:
        found = candidates(words[1:], typed, commands)
    except TrainerError:  # a plug-in that cannot be imported; the command itself will say so
        return []
    spelled = []
    for each in found:
        word = each.word if quote else SPECIAL.sub(r"\\\1", each.word)
        end = "" if each.open else f"{quote} "
        begin = _taken(typed, breaks) if shell == "bash" else 0
        spelled.append(f"{_without(word, begin)}{end}")
    return spelled


def divided(line: str) -> tuple[list[str], str, str]:
    """The words of a line before the cursor, what is there of the last one, and the quote that it has open, if any."""
    for quote in ("", '"', "'"):
        lexer = shlex.shlex(f"{line}{quote}", posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            words = list(lexer)
        except ValueError:
            continue
        ends = not quote and (line[-1:].isspace() and not line.endswith("\\ "))
        return (words, "", "") if ends else (words[:-1], words[-1] if words else "", quote)
    return [], "", ""


def _taken(typed: str, breaks: str) -> int:
    """How many characters of the word bash has already."""
    return max((typed.rfind(character) + 1 for character in breaks if character in "=:@"), default=0)


def _without(word: str, characters: int) -> str:
    """A word without its first characters, of which some are escaped."""
    place = 0
    for _ in range(characters):
        place += 2 if word[place : place + 1] == "\\" else 1
    return word[place:]
