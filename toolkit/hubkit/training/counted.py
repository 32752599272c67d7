"""What of a training counts for its key: all that can change the weights, and nothing else.

An argument that is in none of the lists counts. A test demands that each argument of the installed TRL is in one of
them, so that a new version of TRL shows there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubkit.core.files import read_json
from hubkit.models.base import TRAINING_TEMPLATE, PinnedBase
from hubkit.recipe.artifact import StoredArtifact

_LOGS = "only says what is logged, where and how often"
_SAVES = "only says which checkpoints are written; a resumed training is the same training"
_EVALUATES = "only measures, on rows that are not trained on"
_LOADS_ROWS = "only says how rows get to the trainer; their order comes from the seed"
_PUBLISHES = "only says where TRL would publish; hubkit publishes itself"

WITHOUT_EFFECT: Mapping[str, str] = {
    "output_dir": "only a place; hubkit sets it",
    "logging_steps": _LOGS,
    "logging_strategy": _LOGS,
    "logging_first_step": _LOGS,
    "logging_nan_inf_filter": _LOGS,
    "log_level": _LOGS,
    "log_level_replica": _LOGS,
    "log_on_each_node": _LOGS,
    "report_to": _LOGS,
    "run_name": _LOGS,
    "project": _LOGS,
    "trackio_space_id": _LOGS,
    "trackio_bucket_id": _LOGS,
    "trackio_static_space_id": _LOGS,
    "disable_tqdm": _LOGS,
    "include_num_input_tokens_seen": _LOGS,
    "skip_memory_metrics": _LOGS,
    "save_strategy": _SAVES,
    "save_steps": _SAVES,
    "save_total_limit": _SAVES,
    "save_on_each_node": _SAVES,
    "enable_jit_checkpoint": _SAVES,
    "do_eval": _EVALUATES,
    "do_predict": _EVALUATES,
    "eval_strategy": _EVALUATES,
    "eval_steps": _EVALUATES,
    "eval_delay": _EVALUATES,
    "eval_on_start": _EVALUATES,
    "eval_accumulation_steps": _EVALUATES,
    "eval_do_concat_batches": _EVALUATES,
    "eval_use_gather_object": _EVALUATES,
    "eval_packing": _EVALUATES,
    "per_device_eval_batch_size": _EVALUATES,
    "batch_eval_metrics": _EVALUATES,
    "prediction_loss_only": _EVALUATES,
    "include_for_metrics": _EVALUATES,
    "bf16_full_eval": _EVALUATES,
    "fp16_full_eval": _EVALUATES,
    "dataloader_num_workers": _LOADS_ROWS,
    "dataloader_pin_memory": _LOADS_ROWS,
    "dataloader_prefetch_factor": _LOADS_ROWS,
    "dataloader_persistent_workers": _LOADS_ROWS,
    "dataloader_multiprocessing_context": _LOADS_ROWS,
    "dataset_num_proc": _LOADS_ROWS,
    "push_to_hub": _PUBLISHES,
    "hub_model_id": _PUBLISHES,
    "hub_token": _PUBLISHES,
    "hub_strategy": _PUBLISHES,
    "hub_private_repo": _PUBLISHES,
    "hub_always_push": _PUBLISHES,
    "hub_revision": _PUBLISHES,
    "ddp_timeout": "only says how long processes wait for each other",
    "torch_empty_cache_steps": "only returns unused memory",
}
"""Arguments of TRL that cannot change the weights, each with the reason."""

_SHAPING = """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs activation_offloading adam_beta1
    adam_beta2 adam_epsilon assistant_only_loss auto_find_batch_size average_tokens_across_devices beta bf16
    chat_template_path completion_only_loss data_seed dataloader_drop_last dataloader_in_order dataset_kwargs
    dataset_text_field ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph
    debug deepspeed disable_dropout discopop_tau do_train eos_token f_alpha_divergence_coef f_divergence_type fp16 fsdp
    fsdp_config full_determinism gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
    greater_is_better ignore_data_skip label_names label_smoothing label_smoothing_factor ld_alpha learning_rate
    length_column_name liger_kernel_config load_best_model_at_end local_rank loss_type loss_weights
    lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_length max_steps metric_for_best_model model_init_kwargs
    neftune_noise_alpha num_train_epochs optim optim_args optim_target_modules packing packing_strategy
    pad_to_multiple_of pad_token padding_free parallelism_config per_device_train_batch_size
    precompute_ref_batch_size precompute_ref_log_probs ref_model_mixup_alpha ref_model_sync_steps
    remove_unused_columns restore_callback_states_from_checkpoint resume_from_checkpoint router_aux_loss_coef
    save_only_model seed shuffle_dataset sync_ref_model tf32 torch_compile torch_compile_backend torch_compile_mode
    train_sampling_strategy truncation_mode trust_remote_code use_cache use_cpu use_liger_kernel use_weighting
    warmup_steps weight_decay
"""
WITH_EFFECT = frozenset(_SHAPING.split())
"""Arguments of TRL that can change the weights, or of which that is not certain.

``save_only_model`` leaves the optimizer out of checkpoints, so that a resumed training is another one.
"""

BASE_WITHOUT_EFFECT: Mapping[str, str] = {
    "revision": "only names the commit, which counts",
    "dtype": "only of the merged weights; a training chooses its own",
    "parameters": "only a fact about the commit, which counts",
    "architecture": "only a fact about the commit, which counts",
    "vocab_size": "only a fact about the commit, which counts",
    "eos_token": "only a fact about the commit, which counts",
    "own_pad_token": "only a fact about the commit, which counts",
    "pad_reason": "only the words for the choice of pad_token, which counts",
    "chat_template": "only names the template; that of the training counts",
    "chat_template_sha256": "only of the published template; that of the training counts",
    "chat_template_is_own": "only says where the template comes from; that of the training counts",
    "control_tokens": "only drops rows; the rows count",
    "licence": "only printed on the card",
    "findings": "only printed on the card",
}
"""Facts about the base that cannot change the weights, each with the reason."""
BASE_WITH_EFFECT = frozenset({"repo", "commit", "end_of_turn", "pad_token"})
"""Facts about the base that can change the weights, beside its template for training."""


def counted_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """``args`` of TRL's trainers without those that cannot change the weights."""
    return {name: value for name, value in args.items() if name not in WITHOUT_EFFECT}


def counted_base(artifact: StoredArtifact) -> Any:
    """What of the pinned base ``artifact`` counts: its commit, its tokens and its template for training.

    A fact that it does not have (None, empty) does not count, so that a version of hubkit that knows of one more fact
    trains nothing again.
    """
    path = artifact.path / PinnedBase.FILE
    if not path.is_file():
        return artifact.manifest.digest
    facts = {name: value for name, value in read_json(path).items() if name not in BASE_WITHOUT_EFFECT}
    template = artifact.manifest.files.get(TRAINING_TEMPLATE)
    return {
        **{name: value for name, value in facts.items() if value not in (None, "", [], {}, False)},
        "training_template": template.sha256 if template else None,
    }


def counted_adapter(artifact: StoredArtifact) -> str:
    """What of the trained ``artifact`` counts for a stage that continues it: its weights, not how long it took."""
    folders = ("adapter/", "weights/")
    files = {path: item for path, item in artifact.manifest.files.items() if path.startswith(folders)}
    return type(artifact.manifest)(files).digest if files else artifact.manifest.digest
