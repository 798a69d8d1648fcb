"""The search over one layer: update after update, until the agent is certain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.agent.policy import FilterPolicy
from boxwood._internal.agent.reinforce import at_least_one, draw, surrogate, whitened
from boxwood._internal.agent.reward import accuracy_term, reward
from boxwood._internal.core.generators import own_random_numbers
from boxwood._internal.core.seeds import generator_for, seed_for
from boxwood.errors import InvalidInput

Assess = Callable[[Sequence[Tensor]], Sequence[float]]
"""Actions, bool [N] each and all different, to the drop of accuracy after each, in points."""


@dataclass(frozen=True)
class Update:
    """One update of the policy: what was tried, what came of it, and what it would do now.

    Args:
        tried: actions, each written as by `as_text`.
        drop: of accuracy after each, in percentage points.
        reward: of each.
        now: the thresholded action after the update.
        certainty: mean over the filters of ``max(q, 1 - q)`` after the update, from ½ to 1.
    """

    tried: tuple[str, ...]
    drop: tuple[float, ...]
    reward: tuple[float, ...]
    now: str
    certainty: float = 0.5

    @property
    def kept(self) -> tuple[int, ...]:
        """Filters that each action keeps.

        Example:
            >>> Update(("101", "001"), (0.0, 0.0), (0.1, 0.2), "001").kept
            (2, 1)
        """
        return tuple(action.count("1") for action in self.tried)


Choose = Callable[[Tensor, Sequence[Update]], Tensor]
"""Logits [N] and all updates, to the action that is carried out, bool [N]."""


def thresholded(logits: Tensor, updates: Sequence[Update]) -> Tensor:  # noqa: ARG001 - a Choose
    """Keep the filters whose probability is above one half, or the most probable one if there is none.

    Example:
        >>> thresholded(torch.tensor([0.3, -0.2, 1.0]), ())
        tensor([ True, False,  True])
    """
    return at_least_one(logits > 0, logits)


def best_rewarded(logits: Tensor, updates: Sequence[Update]) -> Tensor:
    """Take the action with the highest reward of all tries, and the first if several are equal.

    Example:
        >>> best_rewarded(torch.zeros(2), [Update(("11", "10"), (0.0, 0.1), (0.0, 0.5), "11")])
        tensor([ True, False])
    """
    tries = [
        (worth, action)
        for update in updates
        for worth, action in zip(update.reward, update.tried, strict=True)
    ]
    return from_text(max(tries, key=lambda each: each[0])[1]) if tries else logits > -torch.inf


@dataclass(frozen=True, kw_only=True)
class TryAndLearn:
    """Settings of an agent's search over one layer.

    Args:
        bound: b > 0, the acceptable drop of accuracy, in percentage points.
        tries: M, actions for one update.
        updates: the number of updates, at most.
        certainty: in [½, 1]; stop when the mean over the filters of ``max(q, 1 - q)`` exceeds it.
        lr: learning rate of Adam.
        choose: the final action: `thresholded` or `best_rewarded`.

    Raises:
        InvalidInput: a number is out of range.

    Example:
        >>> TryAndLearn(bound=2.0).tries
        5

    Source: Huang, Zhou, You and Neumann (2018). Five tries are from memory; the rest is
    ours. The paper stops once the thresholded action no longer changes. Such a pause also comes long
    before a policy has learnt, while all of its probabilities are still near one half; a policy that
    is certain has nothing left to try. Ports have rates of 0.001 and 0.01, and a cap of 100 updates.
    With 0.01 policies are certain before they have seen enough; 0.001 takes fewer than half of the
    tries of the default, for rewards that are about as high.
    """

    bound: float
    tries: int = 5
    updates: int = 400
    certainty: float = 0.99
    lr: float = 3e-4
    choose: Choose = thresholded

    def __post_init__(self) -> None:
        accuracy_term(0.0, self.bound)
        certain = 0.5 <= self.certainty <= 1
        if self.tries < 2 or self.updates < 1 or not certain or not self.lr > 0:
            raise InvalidInput(
                f"Expected tries >= 2, updates >= 1, certainty in [0.5, 1] and lr > 0, got "
                f"tries={self.tries}, updates={self.updates}, certainty={self.certainty}, "
                f"lr={self.lr}; rewards are compared among the tries of one update."
            )


class Agent:
    """A policy that learns about one layer: `step_` until it is `finished`.

    Args:
        picture: the layer's filters as rows, [N, columns].
        how: the search.
        seed: root seed; the policy's first weights and all actions follow from it and ``purpose``.
        purpose: purpose of the random numbers, such as the name of the layer.

    Example:
        >>> agent = Agent(torch.eye(3), TryAndLearn(bound=1.0, updates=40, lr=0.01), seed=0)
        >>> while not agent.finished:  # only the filter in the middle matters
        ...     _ = agent.step_(lambda tried: [0.0 if action[1] else 50.0 for action in tried])
        >>> agent.action.tolist(), agent.updates[-1].kept[0] < 3
        ([False, True, False], True)

    Source: Huang, Zhou, You and Neumann (2018).
    """

    def __init__(
        self, picture: Tensor, how: TryAndLearn, *, seed: int, purpose: str = "filters"
    ) -> None:
        # The policy is small: it stays on the CPU, wherever the network is.
        self.picture, self.how, self.seed, self.purpose = picture.cpu(), how, seed, purpose
        with own_random_numbers(seed=seed_for(seed, f"policy/{purpose}")):
            self.policy = FilterPolicy(*picture.shape)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=how.lr)
        self.updates: list[Update] = []

    @property
    def finished(self) -> bool:
        """Whether the agent is certain, or the cap is met."""
        certain = bool(self.updates) and self.updates[-1].certainty > self.how.certainty
        return certain or len(self.updates) >= self.how.updates

    @property
    def action(self) -> Tensor:
        """What it would carry out now: bool [N], True keeps."""
        with torch.no_grad():
            return self.how.choose(self.policy(self.picture), self.updates)

    def step_(self, assess: Assess) -> Update:
        """Try ``how.tries`` actions and learn from their rewards.

        Args:
            assess: asked once, for those actions that were never tried before.
        """
        logits = self.policy(self.picture)
        chance = generator_for(self.seed, f"actions/{self.purpose}", len(self.updates))
        actions = draw(logits.detach().sigmoid(), self.how.tries, chance)
        tried = tuple(as_text(action) for action in actions)
        known = self._known()
        new = [text for text in dict.fromkeys(tried) if text not in known]
        known |= zip(new, assess([from_text(text) for text in new]) if new else (), strict=True)
        drops = tuple(known[text] for text in tried)
        rewards = tuple(
            reward(drop, self.how.bound, len(text), text.count("1"))
            for drop, text in zip(drops, tried, strict=True)
        )
        self.optimizer.zero_grad(set_to_none=True)
        surrogate(logits, actions, whitened(torch.tensor(rewards))).backward()
        self.optimizer.step()
        with torch.no_grad():
            after = self.policy(self.picture)
        certainty = float(after.abs().sigmoid().mean())
        now = as_text(thresholded(after, ()))
        self.updates.append(Update(tried, drops, rewards, now, certainty))
        return self.updates[-1]

    def _known(self) -> dict[str, float]:
        return {
            text: drop
            for update in self.updates
            for text, drop in zip(update.tried, update.drop, strict=True)
        }

    def tensors(self) -> dict[str, Tensor]:
        """What it has learnt, for `restore_`: the policy's weights and Adam's moments."""
        found = {f"policy/{name}": t for name, t in self.policy.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"adam/{index}/{key}": value for key, value in moments.items()}
        return found

    def restore_(self, tensors: Mapping[str, Tensor], updates: Sequence[Mapping[str, Any]]) -> None:
        """Go on as the agent that gave these tensors, after these updates (as plain values)."""
        policy = {n.removeprefix("policy/"): t for n, t in tensors.items() if n[:6] == "policy"}
        self.policy.load_state_dict(policy)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.updates = [
            Update(
                tuple(each["tried"]),
                tuple(each["drop"]),
                tuple(each["reward"]),
                each["now"],
                each["certainty"],
            )
            for each in updates
        ]


def as_text(action: Tensor) -> str:
    """Write an action as a text of ones and zeros, one for each filter.

    Example:
        >>> as_text(torch.tensor([True, False]))
        '10'
    """
    return "".join("01"[int(kept)] for kept in action)


def from_text(text: str) -> Tensor:
    """Read what `as_text` wrote.

    Example:
        >>> from_text("10")
        tensor([ True, False])
    """
    return torch.tensor([letter == "1" for letter in text])
