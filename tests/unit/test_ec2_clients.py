"""How the SDK is loaded beside a main thread that forks."""

from __future__ import annotations

import os
import subprocess
import sys

#: A worker's main thread that forks as soon as the service's thread has begun to import the SDK; the pool process that
#: it forks imports it too, as a task may.
PROGRAM = """
import os, signal, sys, threading
from celery_flame_ec2.backends.ec2.clients import Clients, Place

class Bell:
    def find_spec(self, name, *_):
        if name == "botocore":
            begun.set()

begun = threading.Event()
sys.meta_path.insert(0, Bell())
thread = threading.Thread(target=lambda: Clients().ec2(Place(region="eu-central-1")))
thread.start()
begun.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    import boto3.session
    boto3.session.Session()
    os._exit(0)
thread.join()
print(os.waitpid(pid, 0)[1])
"""


def test_a_process_that_is_forked_while_the_sdk_is_imported_can_import_it_too() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ, capture_output=True, text=True, check=False)

    assert done.stdout == "0\n", done.stderr
