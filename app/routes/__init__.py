"""One file a noun. Each translates a request, calls a service, translates the result."""

from app.gateway import chat
from app.routes import (
    aliases,
    api_keys,
    artifacts,
    client_rollouts,
    compile_jobs,
    datasets,
    evaluations,
    files,
    fine_tuning,
    job_parts,
    operations,
    programs,
    serving,
    training_files,
    webhooks,
)

ALL_ROUTERS = (
    compile_jobs.routes,
    job_parts.routes,
    client_rollouts.routes,
    evaluations.routes,
    training_files.routes,
    programs.routes,
    datasets.uploads,
    datasets.routes,
    artifacts.routes,
    aliases.routes,
    serving.routes,
    webhooks.routes,
    files.uploads,
    files.routes,
    api_keys.routes,
    fine_tuning.routes,
    chat.routes,
    operations.routes,
)
