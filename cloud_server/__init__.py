"""What runs beside the GPU: sessions, scheduler, KV accounting, engines, app, metrics."""
