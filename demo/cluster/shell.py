"""The simulation of a container's command in scaled time, with Linux's signal handling for PID 1.

This is not a shell. It supports the few commands below, joined by `;`, `&&` or a newline, and redirection into a file.
The commands that the operator runs in the XCom sidecar are recognized as a whole, and so is the sidecar's loop.
Variables are not expanded.
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
# The XCom sidecar's loop, which is also the usual way for a script to wait for a signal.
_FOREVER = re.compile(r"while true; *do sleep (\S+); *done")
# The commands that `PodManager.extract_xcom` runs in the sidecar: read the value, then kill every `sh`.
_READ_XCOM = re.compile(r"if \[ -s (\S+) \]; then cat \1; else echo (\S+); fi")
_KILL_SIDECAR = "kill -2 $(pgrep -u $(id -u) -f 'sh')"


class Process:
    """A process, which starts on construction.

    `files` are the files of the whole pod. `pid1` is the container's PID 1, or None if this process is it. `lines`, if
    given, are the input of an interactive shell, which is then run instead of `command`.
    """

    def __init__(
        self,
        command: list[str],
        files: dict[str, str],
        write: Write,
        sleep: Callable[[float], Awaitable[None]],
        pid1: Process | None = None,
        lines: Lines | None = None,
    ) -> None:
        self._files = files
        self._write = write
        self._sleep = sleep
        self._pid1 = pid1 or self
        self._traps: dict[str, str] = {}
        self._pending_trap = ""  # the action of a trap whose signal was received
        self._exit_code_if_killed = 0
        self._task = asyncio.create_task(self._run_lines(lines) if lines else self._run_command(command, write))

    async def wait(self) -> int:
        """Wait for the process to end, and return its exit code."""
        try:
            await asyncio.wait({self._task})
            return self._exit_code_if_killed if self._task.cancelled() else self._task.result()
        finally:
            self._task.cancel()

    def signal(self, name: str) -> None:
        """Send a signal. On Linux, PID 1 ignores a signal for which it has no handler."""
        self._pending_trap = self._traps.get(name) or self._pending_trap

    def kill(self, code: int = _KILLED) -> None:
        self._exit_code_if_killed = code
        self._task.cancel()

    async def _run_lines(self, lines: Lines) -> int:
        code = 0
        while (line := await lines.get()) is not None:
            code = await self._run_script(line)
        return code

    async def _run_script(self, script: str) -> int:
        if xcom_read := _READ_XCOM.fullmatch(script):
            self._write(self._files.get(xcom_read[1]) or f"{xcom_read[2]}\n")
            return 0
        if script == _KILL_SIDECAR:
            self._pid1.signal("INT")
            self.kill(_INTERRUPTED)  # pgrep also matches this shell itself
            return _INTERRUPTED
        code = 0
        try:
            for operator, words in _commands(script):
                if operator == "&&" and code:
                    continue
                match words:
                    case ["exit", *status]:
                        return int(status[0]) % 256 if status else code
                    case ["trap", action, *signals]:
                        self._traps |= {name.removeprefix("SIG"): action for name in signals}
                        code = 0
                    case [*command, ">", path]:
                        written: list[str] = []
                        code = await self._run_command(command, written.append)
                        self._files[path] = "".join(written)
                    case _:
                        code = await self._run_command(words, self._write)
                # As in a real shell, a trap runs after the foreground command. Every trap is assumed to exit.
                if self._pending_trap:
                    action, self._pending_trap = self._pending_trap, ""
                    return await self._run_script(action)
        except ValueError as error:
            self._write(f"sh: syntax not simulated: {error}\n")
            return 2
        return code

    async def _run_command(self, words: list[str], write: Write) -> int:
        match words:
            case [shell, flags, script, *_] if shell in _SHELLS and flags.startswith("-") and "c" in flags:
                return await self._run_script(script)
            case [] | ["true" | ":" | "mkdir", *_]:  # the last two are used by @task.kubernetes
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
                while not self._pending_trap:
                    await self._sleep(float(duration))
                return 0
            case [name, *_] if name.startswith("python"):
                write(f"(simulated: {shlex.join(words)[:80]} is assumed to succeed)\n")
                return 0
        write(f"{words[0]}: not found (the simulated kubelet does not support this command)\n")
        return 127


def _commands(script: str) -> Iterator[tuple[str, list[str]]]:
    """Split a script into commands, each with the operator that joins it to the previous one.

    Raise ValueError if the script cannot be parsed.
    """
    lexer = shlex.shlex(_FOREVER.sub(r"forever \1", script), posix=True, punctuation_chars=";&|<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    operator = ";"
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token == "&&" or (token and not token.strip(";\n")):
            if words:
                yield operator, words
            operator, words = token, []
        elif token != ">" and token and not token.strip("&|<>"):
            raise ValueError(token)
        else:
            words.append(token)
