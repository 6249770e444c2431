"""The benchmark of serving: its uploads are bad, and a wrong answer is no measurement."""

from collections import Counter

import numpy as np
import pytest

from benchmarks import serve
from benchmarks.rows import MeasurementError
from benchmarks.serve import Loop, Uploads


def test_a_loop_counts_what_failed_and_only_answers_make_its_rate():
    loop = Loop(seconds=2.0, statuses=Counter({200: 8, 503: 1, 0: 1}))
    assert (loop.rate, loop.num_failed) == (4.0, 2)


def test_a_wrong_embedding_ends_the_measurement(monkeypatch):
    class Response:
        status = 200

        def read(self):
            return b'{"embedding": [1.0, 2.0]}'

    class Connection:
        def __init__(self, *address, timeout):
            pass

        def request(self, *arguments):
            pass

        def getresponse(self):
            return Response()

    monkeypatch.setattr(serve.http.client, "HTTPConnection", Connection)

    def uploads(*values):
        return Uploads(
            body_M=[b"x"], prepared_M=[], expected_MD=np.array([values]), answerer=None
        )  # fmt: skip

    loop = serve._closed_loop(uploads(1.0, 2.0), "secret", 2, 0.0)  # however late its threads are
    assert (loop.error, loop.statuses) == (0.0, {200: 2})
    with pytest.raises(MeasurementError, match="off by 1 with 2 clients"):
        serve._closed_loop(uploads(1.0, 3.0), "secret", 2, 0.0)
