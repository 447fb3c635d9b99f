"""The table of retention: every kind of thing that may go, and the setting that says after how long."""

from tasks.retention import caches, copies, deleted_rows, job_files, mlflow_runs, prefect_runs, records, stored_files
from tasks.retention.rule import Rule

RULES = (
    Rule("checkpoints", "completed jobs' other checkpoints", "keep_checkpoints_days", job_files.completed),
    Rule(
        "stopped-checkpoints",
        "checkpoints of failed and cancelled jobs",
        "keep_stopped_checkpoints_days",
        job_files.stopped,
    ),
    Rule("job-folders", "folders of deleted jobs", "keep_orphans_days", job_files.of_no_job),
    Rule("adapters", "adapters that no model has", "keep_orphans_days", stored_files.adapters),
    Rule(
        "served-checkpoints",
        "adapters made of checkpoints that are gone",
        "keep_orphans_days",
        stored_files.served_checkpoints,
    ),
    Rule("weights", "full weights that no model has", "keep_orphans_days", stored_files.weights),
    Rule("copies", "MLflow's copies of adapters and weights", "keep_orphans_days", copies.in_mlflow),
    Rule("datasets", "rows of deleted data sets", "keep_orphans_days", stored_files.datasets),
    Rule("uploads", "uploads that no data set waits for", "keep_orphans_days", stored_files.uploads),
    Rule("samples", "samples of deleted evaluations", "keep_orphans_days", stored_files.samples),
    Rule("unfinished", "files and folders that were never finished", "keep_orphans_days", stored_files.unfinished),
    Rule("run-folders", "working folders of killed flow runs", "keep_orphans_days", caches.run_folders),
    Rule("tokens", "tokens that nobody has read", "keep_caches_days", caches.tokens),
    Rule("kernels", "compiled kernels that nobody has run", "keep_caches_days", caches.kernels),
    Rule("snapshots", "snapshots of databases", "keep_snapshots_days", caches.snapshots),
    Rule("idempotency-keys", "remembered requests", "keep_idempotency_days", records.idempotency_keys),
    Rule("audit-entries", "entries of the audit log", "keep_audit_days", records.audit_entries),
    Rule("deliveries", "webhook messages that are done with", "keep_deliveries_days", records.deliveries),
    Rule("responses", "stored responses that nothing goes on from", "keep_responses_days", records.responses),
    Rule("conversations", "conversations that nothing goes on from", "keep_responses_days", records.conversations),
    Rule("step-events", "what ended jobs measured at each step", "keep_step_events_days", records.step_events),
    Rule("flow-runs", "ended flow runs in Prefect, with their logs", "keep_flow_runs_days", prefect_runs.flow_runs),
    Rule("mlflow", "what was deleted in MLflow or here, with its records", "keep_deleted_days", mlflow_runs.deleted),
    Rule("deleted-datasets", "records of deleted data sets", "keep_deleted_days", deleted_rows.datasets),
)
