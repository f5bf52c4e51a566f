"""A run without a cluster: this machine takes the place of the API server, the Job controller and the kubelet.

    local_inputs → run_loop (observe → finetune_operator.decide → apply) → run_screen
                        machine (Jobs, pods) → trainer_process
                        progress_receiver (the trainer's reports)
                        state_folder (status.yaml, plans, lock)

The decisions, the plan, the status and the trainer are those of a cluster; docs/decisions/0018 says why.
"""
