"""A container's command, played in scaled time, with Linux's signal rules for PID 1.

This is no shell. It knows the few commands below, joined by `;`, `&&` or a new line, and output into a file. As whole
scripts, it knows those that the operator and its xcom sidecar run. Variables are not expanded.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Iterator

Write = Callable[[str], None]
Lines = asyncio.Queue[str | None]

_KILLED, _INTERRUPTED = 128 + 9, 128 + 2
_DURATION = re.compile(r"infinity|\d+(\.\d+)?")
_SHELLS = ("sh", "bash", "/bin/sh", "/bin/bash")
# The loop of the xcom sidecar, and the usual loop of processes that obey a signal.
_FOREVER = re.compile(r"while true; *do sleep (\S+); *done")
# The commands of `PodManager.extract_xcom` in the sidecar: read the value, then end every `sh`.
_READ_XCOM = re.compile(r"if \[ -s (\S+) \]; then cat \1; else echo (\S+); fi")
_KILL_SIDECAR = "kill -2 $(pgrep -u $(id -u) -f 'sh')"


class Process:
    """A process, which begins at once. `files` are those of the whole pod.

    `first`: PID 1 of the container, if that is not this process. `lines`: makes it a shell whose input they are.
    """

    def __init__(
        self,
        command: list[str],
        files: dict[str, str],
        write: Write,
        sleep: Callable[[float], Awaitable[None]],
        first: Process | None = None,
        lines: Lines | None = None,
    ) -> None:
        self._files = files
        self._write = write
        self._sleep = sleep
        self._first = first or self
        self._traps: dict[str, str] = {}
        self._caught = ""  # the action of the trap that a signal has met
        self._killed = 0  # the exit code
        self._work = asyncio.create_task(self._read(lines) if lines else self._run(command, write))

    async def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        try:
            await asyncio.wait({self._work})
            return self._killed if self._work.cancelled() else self._work.result()
        finally:
            self._work.cancel()

    def signal(self, name: str) -> None:
        """Send a signal. By Linux's rule, PID 1 ignores it if it has no trap for it."""
        self._caught = self._traps.get(name) or self._caught

    def kill(self, code: int = _KILLED) -> None:
        self._killed = code
        self._work.cancel()

    async def _read(self, lines: Lines) -> int:
        code = 0
        while (line := await lines.get()) is not None:
            code = await self._script(line)
        return code

    async def _script(self, script: str) -> int:
        if reading := _READ_XCOM.fullmatch(script):
            self._write(self._files.get(reading[1]) or f"{reading[2]}\n")
            return 0
        if script == _KILL_SIDECAR:
            self._first.signal("INT")
            self.kill(_INTERRUPTED)  # pgrep finds this very shell too
        code = 0
        try:
            for joint, words in _commands(script):
                if joint == "&&" and code:
                    continue
                match words:
                    case ["exit", *status]:
                        return int(status[0]) % 256 if status else code
                    case ["trap", action, *signals]:
                        self._traps |= {name.removeprefix("SIG"): action for name in signals}
                        code = 0
                    case [*command, ">", path]:
                        written: list[str] = []
                        code = await self._run(command, written.append)
                        self._files[path] = "".join(written)
                    case _:
                        code = await self._run(words, self._write)
                # As in a real shell, a trap waits for the command in the foreground. Every action counts as an exit.
                if self._caught:
                    action, self._caught = self._caught, ""
                    return await self._script(action)
        except ValueError as error:
            self._write(f"sh: not simulated here: {error}\n")
            return 2
        return code

    async def _run(self, words: list[str], write: Write) -> int:
        match words:
            case [shell, flags, script, *_] if shell in _SHELLS and flags.startswith("-") and "c" in flags:
                return await self._script(script)
            case [] | ["true" | ":" | "mkdir", *_]:  # the last two are of @task.kubernetes
                return 0
            case ["false", *_]:
                return 1
            case ["echo", *arguments]:
                write(f"{' '.join(arguments)}\n")
                return 0
            case ["sleep", duration] if _DURATION.fullmatch(duration):
                await self._sleep(float(duration))
                return 0
            case ["forever", duration] if _DURATION.fullmatch(duration):
                while not self._caught:
                    await self._sleep(float(duration))
                return 0
            case [name, *_] if name.startswith("python"):
                write(f"(simulated: {shlex.join(words)[:80]} is taken to succeed)\n")
                return 0
        write(f"{words[0]}: not found (the simulated kubelet does not know this command)\n")
        return 127


def _commands(script: str) -> Iterator[tuple[str, list[str]]]:
    """Split a script into commands, each with the sign that joins it to the last.

    :raises ValueError: if the script cannot be read.
    """
    lexer = shlex.shlex(_FOREVER.sub(r"forever \1", script), posix=True, punctuation_chars=";&|<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    joint = ";"
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token == "&&" or (token and not token.strip(";\n")):
            if words:
                yield joint, words
            joint, words = token, []
        elif token != ">" and token and not token.strip("&|<>"):
            raise ValueError(token)
        else:
            words.append(token)
