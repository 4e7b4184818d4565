"""What becomes of messages that SQS hands out when nobody consumes from their queue any more?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)


class Callbacks(dict[str, Callable[[Any], Any]]):
    """Kombu's consumers by queue, and for each queue without one a way back for its messages.

    A long poll may bring a message after its consumer was cancelled. Before 5.7 kombu raises KeyError then, which ends
    the worker; from 5.7 on it releases such messages by itself, and asks in a way (`get`) that this does not change.
    """

    def __init__(self, transport: Any) -> None:
        """Take over what this transport has; its channels are looked up when they are needed."""
        super().__init__(transport._callbacks)
        self._transport = transport

    def __missing__(self, queue: str) -> Callable[[Mapping[str, Any]], None]:
        return lambda message: self._release(queue, message)

    def _release(self, queue: str, message: Mapping[str, Any]) -> None:
        """Let others have it at once; where SQS refuses, they have it after the visibility timeout."""
        info = message["properties"]["delivery_info"]
        try:
            self._transport.channels[0].sqs(queue=queue).change_message_visibility(
                QueueUrl=info["sqs_queue"], ReceiptHandle=info["sqs_message"]["ReceiptHandle"], VisibilityTimeout=0
            )
        except Exception as exc:  # noqa: BLE001  whatever SQS answers, the worker must go on to its end
            logger.warning("flame: a message of %s is hidden for its visibility timeout: %s", queue, type(exc).__name__)
        else:
            logger.info("flame: gave back a message of %s that came after the cancel", queue)


def release_stragglers(connection: Any) -> None:
    """Have messages that come too late given back, where the broker is SQS; harmless when repeated."""
    transport = connection.transport
    if transport.driver_type == "sqs" and not isinstance(transport._callbacks, Callbacks):
        transport._callbacks = Callbacks(transport)
