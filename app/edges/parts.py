"""What every edge of one app process works with."""

import logging
from dataclasses import dataclass
from random import Random

from app.catalog.cache import Catalog
from app.commands.attempts import Change
from app.commands.reports import ReportBatcher
from app.commands.results import LeaseTimes
from app.commands.watch import CommandFeed, announce
from app.config import Settings
from app.edges.auth.credentials import Credentials
from app.edges.auth.refusals import Refusals
from app.edges.stops import Stops
from app.edges.streams import Streams
from app.intake.batches import IntakeBatcher
from app.intake.holds import Holds
from app.intake.prepare import Preparer
from app.intake.queues import Queues
from app.postgres.engine import Database
from app.postgres.wakeups import Notifier
from app.supervision import Supervisor
from app.traces.tracing import Tracing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one app process."""

    settings: Settings
    database: Database
    notifier: Notifier
    catalog: Catalog
    preparer: Preparer
    queues: Queues
    holds: Holds
    intake: IntakeBatcher
    feed: CommandFeed
    reports: ReportBatcher
    supervisor: Supervisor
    stops: Stops
    streams: Streams
    credentials: Credentials
    refusals: Refusals
    random: Random
    tracing: Tracing | None = None

    @property
    def leases(self) -> LeaseTimes:
        """The adapters' time limits."""
        return LeaseTimes(lease_s=self.settings.lease_s)

    def announce(self, change: Change) -> None:
        """Wake whoever waits for what a committed transaction changed."""
        announce(self.feed, self.notifier, change)
