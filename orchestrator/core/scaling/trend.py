"""A linear trend: what a load will be by the time that a replica started now takes work."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Level and slope of a rate, smoothed; Holt's linear method.

    Attributes:
        at_s: When it was last updated; None before the first time.
        level: Of the rate.
        slope: Change of the rate per second.
    """

    at_s: float | None = None
    level: float = 0.0
    slope: float = 0.0

    def updated(self, rate: float, now_s: float, half_life_s: float) -> "Trend":
        """Return it after an observation.

        With a the weight of the observation, the slope's is a/4: critical damping, so that a step of
        the load is followed without overshoot of the level.
        """
        if self.at_s is None or now_s <= self.at_s:
            return Trend(at_s=now_s, level=rate, slope=self.slope)
        passed_s = now_s - self.at_s
        weight = 1.0 - 0.5 ** (passed_s / half_life_s)
        missed = rate - (self.level + self.slope * passed_s)
        return Trend(
            at_s=now_s,
            level=self.level + self.slope * passed_s + weight * missed,
            slope=self.slope + weight * weight / 4.0 * missed / passed_s,
        )

    def growth(self, rate: float, lead_s: float, most: float) -> float:
        """Return what to add to a rate for `lead_s` ahead: a rising trend only, at most so large a part."""
        return min(max(0.0, self.slope * lead_s), most * rate)


NO_TREND = Trend()
