"""Runs in a container: calls each function that it is sent, and answers with what that gives or raises."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the functions of modules beside the tests can be called


def main() -> None:
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (function(*arguments), None)
        except Exception as error:
            answer = (None, error)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
