"""What every edge works with, and the few things that they all do with a command."""

import logging
from dataclasses import dataclass
from random import Random

from app.catalog.cache import Catalog
from app.commands.attempts import Word
from app.commands.results import Leases
from app.commands.watch import Hub
from app.config import Settings
from app.edges.auth.certificates import Certificates
from app.edges.auth.refusals import Refusals
from app.edges.auth.tokens import Verifier
from app.edges.stops import Stops
from app.intake.batches import Intake
from app.intake.prepare import Preparer
from app.intake.queues import Queues
from app.postgres.engine import Database
from app.postgres.wakeups import Notifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """The parts of one app process."""

    settings: Settings
    database: Database
    notifier: Notifier
    catalog: Catalog
    preparer: Preparer
    queues: Queues
    intake: Intake
    hub: Hub
    stops: Stops
    verifier: Verifier
    certificates: Certificates
    refusals: Refusals
    random: Random

    @property
    def leases(self) -> Leases:
        """The adapters' time limits."""
        return Leases(lease_s=self.settings.lease_s, cancel_grace_s=self.settings.cancel_grace_s)

    def say(self, word: Word) -> None:
        """Wake whoever waits for what a committed transaction changed."""
        moved = {"correlation_id": str(word.command.id), "attempt": word.command.attempt}
        logger.info(str(word.command.state), extra=moved)
        self.hub.changed(word.woken)
        self.notifier.commands(word.woken)
        if word.outbox:
            self.notifier.outbox()
        if word.command.saga_id is not None:
            self.notifier.sagas()
