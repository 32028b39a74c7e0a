"""tiny_vla: a compact vision-language-action policy in JAX, trained by flow matching and fine-tuned with LoRA.

It is built as pi0 is (Black et al., pi0: A Vision-Language-Action Flow Model for General Robot Control, 2024), so small
that a CPU trains it in minutes: everything that holds for Pi0.5 on a GPU can be tried with it anywhere.
"""
