"""A run without a cluster: this machine stands for API server, Job controller and kubelet.

    local_inputs → run_loop (observe → finetune_operator.decide → apply) → run_screen
                        machine (Jobs, pods) → trainer_process
                        progress_receiver (the trainer's reports)
                        state_folder (status.yaml, plans, lock)

The decisions, the plan, the status and the trainer are those of a cluster; docs/decisions/0018 says why.
"""
