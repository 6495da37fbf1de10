"""The look-up of the gateway's name."""

from __future__ import annotations

import threading
import unittest
from typing import Any
from unittest import mock

from vyzio_realtime_django.backends import lookup


class LookupTests(unittest.TestCase):
    def test_a_name_that_is_no_name_is_an_error_of_the_connection(self) -> None:
        for host in ("a" * 64, "a..b", "\udc80"):
            with self.assertRaises(OSError):
                lookup.Lookup(host, 80).addresses(5)

    def test_two_threads_of_a_fork_do_not_wait_for_a_lock_of_the_process_before(self) -> None:
        looked_up = lookup.Lookup("localhost", 80)
        looked_up._process = -1
        looked_up._lock.acquire()  # As another thread did while the process forked.
        answers: list[Any] = []
        second = threading.Thread(target=lambda: answers.append(looked_up.addresses(5)), daemon=True)

        def create_late() -> Any:
            """The second thread comes while the first one begins."""
            patch.stop()
            second.start()
            second.join(0.2)
            return threading.Lock()

        patch = mock.patch("threading.Lock", create_late)
        patch.start()
        answers.append(looked_up.addresses(5))
        second.join(5)
        self.assertEqual(len(answers), 2)
