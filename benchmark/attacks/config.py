"""What an attack is: its kind and strength, as an entry of `protocol: {attacks: [...]}`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from benchmark.config import Config

EPSILON = 16 / 255
STEP_SIZE = 1 / 255
STEPS = 20
EXAMPLES = 512
ROUNDING = 1e-9


class Attack(Config):
    """A white-box attack on the first test examples; a bare name is short for `{kind: name}`.

    `fgsm`: one step as long as the radius (Goodfellow 2015). `bim`: steps from the clean example (Kurakin 2017). `pgd`:
    steps from a random point of the ball (Madry 2018). `mim`: steps along a momentum with decay 1 of gradients divided
    by their L1 norm (Dong 2018). Lengths are fractions of white - black; in the norm `l2` radius and step are
    multiplied by the square root of the number of pixel values, so that epsilon is the root mean square change. All
    steps together must be able to cross the ball.

    >>> Attack.model_validate("pgd").label
    'pgd-linf-0.0627x20'
    """

    kind: Literal["fgsm", "bim", "pgd", "mim"]
    norm: Literal["linf", "l2"] = "linf"
    epsilon: float = Field(EPSILON, gt=0, description="radius of the ball around the clean example")
    step_size: float = Field(STEP_SIZE, gt=0, description="length of one step; fgsm: the radius")
    steps: int = Field(STEPS, ge=1, description="gradient steps; fgsm: 1")
    adaptive: bool = Field(False, description="also lower the score that would detect the attack")
    examples: int = Field(EXAMPLES, ge=1, description="how many test examples are attacked, the first ones")

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"kind": given}
        if isinstance(given, dict) and given.get("kind") == "fgsm":
            radius = given.get("epsilon", EPSILON)
            return {**({"step_size": radius} if _is_length(radius) else {}), "steps": 1, **given}
        return given

    @model_validator(mode="after")
    def _steps_fit_the_radius(self) -> Attack:
        if self.kind == "fgsm" and (self.steps != 1 or self.step_size != self.epsilon):
            raise ValueError("fgsm is one step of length epsilon; leave out 'steps' and 'step_size', or use kind: bim")
        reach = self.steps * self.step_size
        if reach < self.epsilon * (1 - ROUNDING):
            raise ValueError(
                f"{self.steps} steps of {self.step_size:.3g} go no further than {reach:.3g}, so that the attack is "
                f"weaker than its epsilon {self.epsilon:.3g} says. Raise 'step_size' or 'steps', or lower 'epsilon'"
            )
        return self

    @property
    def label(self) -> str:
        """Kind and strength, the name of the attacked set: `fgsm-linf-0.0627`, `pgd-l2-0.0314x40-adaptive`."""
        steps = "" if self.kind == "fgsm" else f"x{self.steps}"
        return f"{self.kind}-{self.norm}-{self.epsilon:.3g}{steps}{'-adaptive' if self.adaptive else ''}"


def _is_length(value: Any) -> bool:
    """Whether it will pass as a radius; if not, the radius alone is to be complained about."""
    return isinstance(value, int | float) and value > 0
