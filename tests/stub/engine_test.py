#!/usr/bin/env python3
"""llama.cpp's prebuilt engine in a guest: the same tokens and logits through the link as through a vgpud of the same
machine. Fetches the engine (tests/engine/setup.sh)."""

import pathlib
import sys
import unittest

from link import Link, harness

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "engine"))

import engine  # noqa: E402  (the path must be set first)


class Guest(unittest.TestCase):
    def test_the_same_tokens_as_locally(self):
        for kind in ("f16", "q4_K"):
            with self.subTest(kind=kind):
                path = engine.model(kind)
                options = {"prompt_length": 42, "tokens": 12, "flash": True}
                with engine.device("vgpud") as (environment, _service):
                    local = engine.generate(path, env=environment, **options)
                with Link(size="1GiB", slots=4) as link:
                    guest = engine.generate(path, env=engine.service_environment(link.guest), **options)
                    harness.wait_until(lambda: not link.guest.clients(), 10, "the client has gone")
                    ended = link.guest.stats("--ended")["ended"][-1]
                self.assertNotEqual(guest.values["device"], "CPU")
                self.assertGreater(ended["graph_launches"] + ended["launches"], 12)  # one a token at least
                self.assertGreater(ended["link_records"], 100)
                self.assertEqual(guest.tokens, local.tokens)
                self.assertLess(engine.distance(local.logits, guest.logits), 1e-9)


if __name__ == "__main__":
    unittest.main()
