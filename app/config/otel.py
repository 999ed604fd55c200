"""The standard variables of OpenTelemetry that say whether, and how, something is sent.

What else they can say (the endpoint, headers, certificates, the sampler, the resource) is read by
OpenTelemetry's own libraries.
"""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class OtelSettings(BaseSettings):
    """As the specification of OpenTelemetry's environment has them."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True, extra="ignore")

    sdk_disabled: bool = False
    traces_exporter: str = ""
    logs_exporter: str = ""
    metrics_exporter: str = ""
    exporter_otlp_endpoint: str = ""
    exporter_otlp_traces_endpoint: str = ""
    exporter_otlp_metrics_default_histogram_aggregation: str = "explicit_bucket_histogram"
    bsp_schedule_delay: float = Field(default=5000, gt=0)
    """Milliseconds."""
    bsp_max_queue_size: int = Field(default=65_536, gt=0)
    bsp_max_export_batch_size: int = Field(default=2_048, gt=0)
    """Not the specification's 512: sending one costs as much as encoding hundreds of spans."""

    metric_export_interval: float = Field(default=60_000, gt=0)
    """Milliseconds."""

    def exports(self, exporter: str) -> bool:
        """Whether an exporter's variable asks for OTLP; of metrics and logs, only by name."""
        return not self.sdk_disabled and "otlp" in exporter.split(",")

    @property
    def exponential(self) -> bool:
        """Whether histograms are pushed in buckets that a formula gives, not in their own ones."""
        asked = self.exporter_otlp_metrics_default_histogram_aggregation
        return asked == "base2_exponential_bucket_histogram"

    @property
    def sends(self) -> bool:
        """Whether spans are sent by OTLP."""
        if self.sdk_disabled:
            return False
        if self.traces_exporter:
            return self.exports(self.traces_exporter)
        return bool(self.exporter_otlp_endpoint or self.exporter_otlp_traces_endpoint)
