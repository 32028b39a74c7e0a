"""The entry of BC-RNN among the policies. Light: what it names is imported where the policy is loaded."""

from __future__ import annotations

from science.robots.policies.base import PolicySpec

SPEC = PolicySpec(
    name="bc_rnn",
    description="robomimic's BC-RNN-GMM: an LSTM cloned from demonstrations, acting by a Gaussian mixture",
    load="science.robots.bc_rnn.policy:load",
    trained=True,
    train="workloads.train_bc_rnn",
    settings="science.robots.bc_rnn.config:resolve",
    inspect="science.robots.bc_rnn.facts:inspect",
    facts="science.robots.bc_rnn.facts:facts",
    rewrite_trusted="science.robots.bc_rnn.trusted:rewrite_as_plain_data",
    framework="pytorch",
    packages=("torch", "robomimic"),
)
