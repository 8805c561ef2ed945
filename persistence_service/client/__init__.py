"""The Python client: what a worker needs, and nothing of the service."""

from persistence_service.client.client import Ack, PersistenceClient
from persistence_service.client.errors import GaveUp, ServiceUnreachable, UnexpectedAnswer
from persistence_service.client.http import ClientStats
from persistence_service.models.administration_answers import SessionDeleted
from persistence_service.models.answers import (
    BatchAccepted,
    FlushDone,
    Health,
    IncompleteSession,
    IncompleteSessions,
    RestoredSession,
    SessionView,
    TaskView,
    UnstoredItem,
)
from persistence_service.models.session import SessionRequest
from persistence_service.models.status import Status
from persistence_service.models.task import TaskRequest

__all__ = [
    "Ack",
    "BatchAccepted",
    "ClientStats",
    "FlushDone",
    "GaveUp",
    "Health",
    "IncompleteSession",
    "IncompleteSessions",
    "PersistenceClient",
    "RestoredSession",
    "ServiceUnreachable",
    "SessionDeleted",
    "SessionRequest",
    "SessionView",
    "Status",
    "TaskRequest",
    "TaskView",
    "UnexpectedAnswer",
    "UnstoredItem",
]
