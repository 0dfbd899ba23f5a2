"""The Open Inference Protocol (KServe v2, Triton), independent of the transport: tensors in, tensors out.

The protocol's page: https://github.com/kserve/open-inference-protocol. Its extensions are Triton's
(https://github.com/triton-inference-server/server/tree/main/docs/protocol).
"""
