"""The Kubernetes edge: what is read from the API server, what is written to it, and nothing else.

`reflector` fills `store`s with `objects`; `read` makes values of them; `claims` and `status` are the providers that
write; `lease` decides who may; `events` tells. Only `client` speaks HTTP, and only `client` imports `kubernetes`.
"""
