"""What a cluster needs to choose a runtime that its nodes have."""

from __future__ import annotations

from collections.abc import Sequence

from vruntime.engines.engine import Runtime


def runtime_class(runtime: Runtime) -> Sequence[str]:
    """How Kubernetes is told, in lines."""
    return [
        f"in Kubernetes, with `runtimeClassName: {runtime.name}` in a pod's spec, and once for the cluster:",
        "  apiVersion: node.k8s.io/v1",
        "  kind: RuntimeClass",
        f"  metadata: {{name: {runtime.name}}}",
        f"  handler: {runtime.name}",
    ]
