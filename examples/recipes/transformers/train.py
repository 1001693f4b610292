"""A Hugging Face Trainer as people have it: a small Llama on bytes. The marked lines connect it to a sweep.

python examples/recipes/transformers/train.py --width 32 --learning_rate 0.01 --max_steps 60 --output_dir out
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from hptransfer.integrations.transformers import TrialCallback, last_checkpoint  # 1

WINDOW = 64


@dataclass
class ModelArguments:
    width: int = 64


class Windows(torch.utils.data.Dataset):
    """Windows of the standard library's source code, as bytes."""

    def __init__(self, first: int, count: int) -> None:
        sources = sorted(Path(os.__file__).parent.glob("*.py"))
        text = b"".join(path.read_bytes() for path in sources)[WINDOW * first : WINDOW * (first + count)]
        self.windows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(-1, WINDOW)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


def main() -> None:
    parser = HfArgumentParser((ModelArguments, TrainingArguments))
    sizes, arguments = parser.parse_args_into_dataclasses()
    set_seed(arguments.seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=sizes.width,
        intermediate_size=4 * sizes.width,
        num_hidden_layers=2,
        num_attention_heads=sizes.width // 16,
    )
    trainer = Trainer(
        LlamaForCausalLM(config),
        arguments,
        train_dataset=Windows(0, 8192),
        eval_dataset=Windows(8192, 128),
        callbacks=[TrialCallback()],  # 2
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(arguments.output_dir))  # 3


if __name__ == "__main__":
    main()
