"""What `make test` leaves to `make test-all`: slow tests, and all but the first case of the others.

`pytest --durations=0` says what a test takes. What matters most stays in `make test`: the errors, a case of
every oracle and of every kind of interface, every row of the conformance table once, runs of the examples.
"""

# Tests that take more than a second a case, on one of two cores, and are not among those; by file.
SLOW = {
    "conformance/test_limits.py": [
        "test_a_plain_model_that_cannot_be_written_leaves_an_empty_file",
    ],
    "conformance/test_network.py": [
        "test_at_mix_zero_it_is_the_plain_network",
    ],
    "conformance/test_observers.py": [
        "test_keras_callbacks",
    ],
    "conformance/test_precision.py": [
        "test_watched_saved_and_loaded",
    ],
    "conformance/test_running.py": [
        "test_accumulated_small_batches_are_the_large_batch",
        "test_half_precision_with_a_loss_scale_that_moves",
        "test_resumed_in_half_precision",
        "test_two_devices",
    ],
    "conformance/test_saving.py": [
        "test_killed_it_goes_on_when_it_is_started_again",
    ],
    "conformance/test_table.py": [
        "test_every_class_and_function_is_there",
    ],
    "test_adam.py": [
        "test_under_a_strategy_it_is_left_to_keras",
    ],
    "test_balance.py": [
        "test_a_real_network",
        "test_places_are_where_all_paths_meet",
        "test_the_result_is_what_decouple_takes",
    ],
    "test_benchmarks.py": [
        "test_a_peer_trains_as_sg_does",
        "test_accuracy",
        "test_adam",
        "test_arithmetic",
        "test_depth",
        "test_interfaces",
        "test_module_update",
        "test_pipeline",
        "test_step",
        "test_the_arms_of_memory_in_deep_networks",
        "test_the_rows_of_arithmetic",
        "test_update_period",
    ],
    "test_callbacks.py": [
        "test_alignment_goes_into_the_logs_and_touches_nothing",
        "test_alignment_mirrored",
        "test_mix_mirrored",
    ],
    "test_clipping.py": [
        "test_an_optimizer_in_keras_own_pair",
        "test_at_mix_zero_the_modules_are_those_of_plain_keras",
        "test_on_two_devices",
        "test_synthesizers_have_a_norm_of_their_own",
        "test_the_modules_own_steps_while_synthesizers_rest",
    ],
    "test_critic.py": [
        "test_a_replica_without_examples",
        "test_convolutional_critics",
        "test_exact_mirrored",
        "test_half_precision",
    ],
    "test_data.py": [
        "test_a_machine_without_tensorflow",
        "test_the_fast_recipe_on_this_backend",
    ],
    "test_docs.py": [
        "test_the_site_builds_and_needs_no_network",
    ],
    "test_engine.py": [
        "test_modules_that_are_alike",
    ],
    "test_exact.py": [
        "test_gradient_accumulation_is_the_large_batch",
        "test_half_precision",
        "test_one_hot_and_index_labels_are_the_same",
    ],
    "test_examples.py": [
        "test_a_killed_process_goes_on",
        "test_a_run_with_other_settings_is_not_resumed",
        "test_a_schedule",
        "test_a_stopped_run_goes_on",
        "test_a_warm_up_of_true_gradients",
        "test_binary_addition",
        "test_cifar10_deep_every_arm",
        "test_cifar10_in_bfloat16",
        "test_mnist_learns",
        "test_no_backprop_trains_the_last_layer_only",
    ],
    "test_federated_split.py": [
        "test_a_refit_changes_the_critic_alone",
        "test_a_stopped_run_goes_on",
        "test_clients_as_actors",
        "test_every_arm_is_counted_to_the_byte",
        "test_other_settings_do_not_go_on",
        "test_splitfed_descends_the_true_gradient",
        "test_the_budget_ends_a_run_that_can_go_on",
    ],
    "test_feedback.py": [
        "test_above_and_below_what_learns",
        "test_it_comes_into_line",
        "test_mixed_precision",
        "test_targets_are_no_labels",
    ],
    "test_first_examples.py": [
        "test_quickstart_without_tensorflow",
    ],
    "test_freezing.py": [
        "test_a_frozen_interface_is_a_frozen_module",
        "test_below_what_is_frozen_the_network_learns_on",
    ],
    "test_gpu_benchmark.py": [
        "test_it_stops_and_goes_on",
    ],
    "test_halves.py": [
        "test_a_cut_inside_a_nested_model_with_statistics_and_noise",
        "test_a_target_for_every_other_batch_is_an_update_period_of_two",
        "test_each_half_is_saved_by_itself_and_goes_on",
        "test_fit_on_a_pair_is_to_learn_it",
        "test_fit_on_pairs_trains_the_synthesizer_and_leaves_the_module",
        "test_half_precision",
        "test_one_optimizer_is_copied_for_the_synthesizer",
        "test_the_upper_half_has_interfaces_of_its_own",
    ],
    "test_histories.py": [
        "test_the_results_of_an_example",
    ],
    "test_in_turn.py": [
        "test_a_batch_may_be_of_any_size",
        "test_a_loss_and_a_metric_of_a_subclass",
        "test_class_weights",
        "test_convolutions",
        "test_frozen_layers",
        "test_interfaces_in_nested_models",
        "test_labels_that_say_there_is_none",
        "test_losses_in_a_list_of_outputs",
        "test_losses_whose_order_is_not_that_of_the_modules",
        "test_masks",
        "test_metrics_see_the_mask_of_an_output",
        "test_penalties_dropout_and_statistics",
        "test_several_inputs_outputs_and_branches",
        "test_the_mask_of_tokens_in_every_module",
        "test_without_weights",
    ],
    "test_in_turn_fit.py": [
        "test_batch_by_batch_with_evaluations_in_between",
        "test_callbacks",
        "test_compiled_anew_it_goes_on_together",
        "test_data_sets",
        "test_double_precision",
        "test_half_precision",
        "test_however_it_is_run",
        "test_metrics_with_a_state_of_many_numbers",
        "test_optimizers",
    ],
    "test_labels.py": [
        "test_a_network_with_a_label_for_each_position_trains",
    ],
    "test_layers.py": [
        "test_a_conditional_convolutional_interface",
        "test_batch_normalization_advances_once_a_step",
        "test_conditional_synthetic_loss_with_two_outputs_and_loss_weights",
        "test_masks_pass_through",
        "test_recipes_layers_models_and_callables_as_synthesizers",
        "test_synthetic_loss_mirrored",
    ],
    "test_local_loss.py": [
        "test_exact_mirrored",
        "test_files_and_configuration",
        "test_side_by_side_nothing_is_late",
    ],
    "test_models.py": [
        "test_each_interface_is_reported_up_to_a_number_or_as_one_chooses",
        "test_each_kind_of_label_is_checked_once",
        "test_metric_keys",
        "test_overflowing_half_precision_steps_are_not_reported",
        "test_save_load_and_go_on",
        "test_synthetic_losses_have_no_cosine",
        "test_what_is_reported_of_all_does_not_depend_on_what_is_reported_of_each",
    ],
    "test_module_update.py": [
        "test_goes_on_where_it_stopped",
        "test_metrics_and_how_often",
        "test_synthesizers_at_rest_are_not_called",
        "test_unconditional",
        "test_update_period",
        "test_what_rests_stays",
    ],
    "test_multi_process.py": [
        "test_a_process_is_lost_and_all_go_on",
        "test_two_processes_end_with_the_weights_of_one",
    ],
    "test_package.py": [
        "test_importing_it_imports_nothing_that_is_asked_for_later",
        "test_installed_from_a_file",
    ],
    "test_paper_table.py": [
        "test_a_budget",
        "test_cells_are_run_once",
        "test_convolutional_network",
        "test_synthesizers_of_the_paper",
    ],
    "test_parallel_benchmark.py": [
        "test_it_runs",
    ],
    "test_parting.py": [
        "test_a_call_has_its_arguments_in_a_module_too",
        "test_what_is_computed_of_inputs_alone_is_computed_where_it_is_used",
    ],
    "test_pipeline.py": [
        "test_an_error_in_mid_epoch_leaves_the_weights_from_before_it",
        "test_in_flight",
    ],
    "test_recurrent.py": [
        "test_a_linear_auxiliary_read_out_changes_nothing_else",
        "test_dropout",
        "test_hidden_layers",
        "test_it_may_be_the_last_layer_and_stand_on_another",
        "test_mix_is_moved",
        "test_outside_training_it_is_the_plain_layer_and_leaves_the_state_alone",
        "test_saved_and_loaded_in_mid_sequence_it_goes_on",
        "test_without_mix_and_ends_it_is_a_stateful_layer",
        "test_without_mix_it_is_truncated_backpropagation_with_the_state_handed_on",
    ],
    "test_recurrent_errors.py": [
        "test_a_batch_of_another_size_under_xla",
    ],
    "test_recurrent_examples.py": [
        "test_benchmark",
        "test_characters",
        "test_copy_goes_on_where_it_was",
        "test_what_is_generated_is_what_the_network_says",
        "test_what_limits_it",
    ],
    "test_schedules.py": [
        "test_a_schedule_is_not_saved",
    ],
    "test_side_by_side.py": [
        "test_actors",
        "test_actors_a_slow_module",
        "test_actors_killed_in_mid_epoch",
        "test_actors_late_targets",
        "test_actors_that_predict_their_inputs",
        "test_actors_whose_synthesizers_see_the_input",
        "test_rests",
    ],
    "test_sparse.py": [
        "test_a_step_grows_with_the_number_of_periods",
        "test_a_step_is_that_of_an_optimizer_that_is_given_what_is_due",
        "test_a_step_that_is_due_is_the_ordinary_step",
        "test_exact_mirrored",
        "test_exact_mirrored_with_several_periods",
        "test_exact_with_several_periods",
        "test_half_precision",
        "test_nothing_of_a_resting_synthesizer_moves",
    ],
    "test_surgery.py": [
        "test_a_real_network_trains",
        "test_applications",
        "test_deeper_nesting",
        "test_mask_and_other_call_arguments_are_handed_on",
        "test_nested_models_by_path",
        "test_synthetic_losses",
        "test_toys",
    ],
    "test_sweep.py": [
        "test_a_chief_and_two_workers",
        "test_a_killed_process_goes_on",
        "test_a_trial_is_what_one_would_train_by_hand",
        "test_again_there_is_nothing_to_do",
        "test_every_arm",
        "test_hyperband_gives_all_epochs_to_some",
        "test_mnist",
        "test_other_settings_are_refused",
        "test_plot_reads_what_keras_tuner_keeps",
        "test_stopped_and_resumed_it_finds_the_same",
    ],
    "test_synthesizers.py": [
        "test_conv_predicts_zero_for_sequences_images_and_volumes",
        "test_gradient_recipes_predict_zero_at_any_rank",
    ],
    "test_synthetic_input.py": [
        "test_convolutional",
        "test_mixed_precision",
        "test_not_outside_training",
        "test_updated_at_random",
        "test_whatever_predicts_is_saved",
    ],
    "test_tuning.py": [
        "test_a_sweep_with_a_trial_that_diverges",
        "test_a_synthesizer_is_swept_by_its_cosine",
        "test_a_trial_goes_on_from_its_weights",
        "test_keras_tuner_is_imported_only_when_asked_for",
        "test_more_divergence_than_a_tuner_takes",
        "test_trials_train_what_one_would_write_by_hand",
    ],
    "test_walkthrough.py": [
        "test_it_runs",
    ],
    "test_weights.py": [
        "test_a_synthesizer_whose_layers_read_masks_otherwise",
        "test_exact_in_a_plain_model",
        "test_exact_mirrored",
        "test_exact_with_a_label_for_each_step",
        "test_padding_has_no_effect",
        "test_padding_of_outputs_with_positions_has_no_effect_on_predicted_losses",
        "test_predicted_losses_of_masked_outputs_without_weights",
        "test_what_counts_nothing_has_no_effect",
        "test_where_a_mask_is_false_nothing_goes_down",
    ],
    "test_windows.py": [
        "test_fit_on_windows_is_that_on_the_arrays_in_them",
    ],
    "test_with_input.py": [
        "test_context_learns_and_is_saved",
        "test_existing_model",
        "test_low_rank",
        "test_stripped",
        "test_updated_at_random",
        "test_whole_recipes_in_turn",
    ],
}
# Files and tests of which every case stays.
EVERY_CASE = {
    "conformance/test_saving.py::test_loaded_it_predicts_the_same",
    "test_balance.py",
    "test_costs.py",
    "test_dtypes.py",
    "test_engine.py",
    "test_errors.py",
    "test_every_error.py",
    "test_golden.py",
    "test_gradients.py",
    "test_histories.py",
    "test_keras.py",
    "test_labels.py",
    "test_logging.py",
    "test_paper_table.py",
    "test_parting.py",
    "test_recurrent_errors.py",
    "test_results.py",
    "test_synthesizers.py",
    "test_ticks.py",
}


def left(file, function, seen):
    """Whether `make test` leaves out a case of a test.

    Args:
        file: its path below this folder.
        function: its name, without that of the case.
        seen: set of the tests of which a case has been seen; this one is added.
    """
    test = f"{file}::{function}"
    first = test not in seen
    seen.add(test)
    return function in SLOW.get(file, ()) or not (first or {file, test} & EVERY_CASE)
