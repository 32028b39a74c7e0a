"""The study in torch: state dicts in training checkpoints (`.pt`), and the same weights as safetensors."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from weight_study import ACTIONS, LAYERS, RANK, RATE, TOKENS, WIDTH, Study, batches


class Lora(torch.nn.Module):
    """A linear layer, with a low-rank path beside it where it is asked for."""

    def __init__(self, lora: bool):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        if lora:
            self.lora_a = torch.nn.Parameter(torch.randn(WIDTH, RANK) / WIDTH**0.5)
            self.lora_b = torch.nn.Parameter(torch.zeros(RANK, WIDTH))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        weight = self.weight.float()
        return state @ (weight + self.lora_a @ self.lora_b if hasattr(self, "lora_a") else weight)


class Model(torch.nn.Module):
    """The same model as in jax."""

    def __init__(self, seed: int, lora: bool = False):
        super().__init__()
        torch.manual_seed(seed)
        self.llm = torch.nn.ModuleDict(
            {
                "embedder": torch.nn.Embedding(TOKENS, WIDTH),
                "attn": torch.nn.ModuleList(Lora(False) for _ in range(LAYERS)),
                "mlp": torch.nn.ModuleList(Lora(lora) for _ in range(LAYERS)),
                "final_norm": torch.nn.ParameterDict({"scale": torch.nn.Parameter(torch.ones(WIDTH))}),
            }
        )
        self.vision = torch.nn.Linear(12, WIDTH)
        self.action_out = torch.nn.Linear(WIDTH, ACTIONS)

    def loss(self, batch: dict[str, torch.Tensor], objective: str) -> torch.Tensor:
        embedding = self.llm["embedder"].weight.float()
        state = embedding[batch["tokens"]] + self.vision(batch["image"])
        for attn, mlp in zip(self.llm["attn"], self.llm["mlp"], strict=True):
            state = state + torch.tanh(attn(state))
            state = state + torch.tanh(mlp(state))
        acted = ((self.action_out(state) - batch["actions"]) ** 2).mean()
        if objective == "actions":
            return acted
        words = (state * self.llm["final_norm"]["scale"]) @ embedding.T
        return acted + torch.nn.functional.cross_entropy(words, batch["next"].long())


def train(model: Model, seed: int, objective: str = "actions") -> Model:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=RATE)
    for batch in batches(seed):
        optimizer.zero_grad()
        model.loss({name: torch.from_numpy(values) for name, values in batch.items()}, objective).backward()
        optimizer.step()
    return model


def fine_tune(source: dict | None, seed: int, objective: str = "actions", lora: bool = False) -> Model:
    model = Model(seed, lora)
    if source is not None:
        model.load_state_dict(source, strict=False)
    if lora:
        for name, parameter in model.llm.named_parameters():
            if "lora" not in name:
                parameter.requires_grad = False
                parameter.data = parameter.data.bfloat16()
    return train(model, seed, objective)


def write_study(folder: Path, ending: str) -> Study:
    """Train and write everything, as `.pt` or `.safetensors`."""
    base = train(Model(0), 0, "both").state_dict()
    libero = fine_tune(base, 1).state_dict()
    started = fine_tune(base, 7, lora=True).state_dict()
    resumed = Model(7, lora=True)
    resumed.load_state_dict(started, assign=True)  # with the types of the leaves: frozen ones stay in bfloat16
    for name, parameter in resumed.named_parameters():
        parameter.requires_grad = not name.startswith("llm") or "lora" in name
    states = {
        "pi05_base": base,
        "pi05_libero": libero,
        "stranger": train(Model(9), 9, "both").state_dict(),
        "lora_from_base": fine_tune(base, 2, lora=True).state_dict(),
        "lora_from_libero": fine_tune(libero, 3, lora=True).state_dict(),
        "full_from_base": fine_tune(base, 4).state_dict(),
        "full_of_everything": fine_tune(base, 5, "both").state_dict(),
        "scratch": fine_tune(None, 6, "both").state_dict(),
        "resumed_from_base": train(resumed, 8).state_dict(),
    }
    study = Study({name: folder / f"{name}{ending}" for name in states})
    for name, state in states.items():
        if ending == ".safetensors":
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, study.paths[name])
        else:
            torch.save({"step": 3, "state_dict": state, "optimizer": {"momentum": torch.ones(99)}}, study.paths[name])
    return study
