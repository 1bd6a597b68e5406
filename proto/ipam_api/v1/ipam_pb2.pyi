from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttachmentKey(_message.Message):
    __slots__ = ("container_id", "ifname")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    ifname: str
    def __init__(self, container_id: _Optional[str] = ..., ifname: _Optional[str] = ...) -> None: ...

class AllocateRequest(_message.Message):
    __slots__ = ("key", "network_name", "attempt_id", "netns_cookie", "pod_namespace", "pod_name", "pod_uid", "wait_seconds", "began_boottime", "network_card", "eni", "is_ipam_only")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    NETNS_COOKIE_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BEGAN_BOOTTIME_FIELD_NUMBER: _ClassVar[int]
    NETWORK_CARD_FIELD_NUMBER: _ClassVar[int]
    ENI_FIELD_NUMBER: _ClassVar[int]
    IS_IPAM_ONLY_FIELD_NUMBER: _ClassVar[int]
    key: AttachmentKey
    network_name: str
    attempt_id: str
    netns_cookie: int
    pod_namespace: str
    pod_name: str
    pod_uid: str
    wait_seconds: float
    began_boottime: float
    network_card: int
    eni: str
    is_ipam_only: bool
    def __init__(self, key: _Optional[_Union[AttachmentKey, _Mapping]] = ..., network_name: _Optional[str] = ..., attempt_id: _Optional[str] = ..., netns_cookie: _Optional[int] = ..., pod_namespace: _Optional[str] = ..., pod_name: _Optional[str] = ..., pod_uid: _Optional[str] = ..., wait_seconds: _Optional[float] = ..., began_boottime: _Optional[float] = ..., network_card: _Optional[int] = ..., eni: _Optional[str] = ..., is_ipam_only: _Optional[bool] = ...) -> None: ...

class AllocateReply(_message.Message):
    __slots__ = ("allocation", "is_repeat", "epoch")
    ALLOCATION_FIELD_NUMBER: _ClassVar[int]
    IS_REPEAT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    allocation: Allocation
    is_repeat: bool
    epoch: str
    def __init__(self, allocation: _Optional[_Union[Allocation, _Mapping]] = ..., is_repeat: _Optional[bool] = ..., epoch: _Optional[str] = ...) -> None: ...

class Allocation(_message.Message):
    __slots__ = ("key", "network_name", "attempt_id", "generation", "netns_cookie", "pod_namespace", "pod_name", "pod_uid", "address", "eni_id", "eni_mac", "eni_primary_address", "device_index", "network_card", "route_table_id", "subnet_cidr", "gateway", "allocated_unix", "addresses", "subnet_cidr_v6", "gateway_v6", "wired_by")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NETNS_COOKIE_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ENI_ID_FIELD_NUMBER: _ClassVar[int]
    ENI_MAC_FIELD_NUMBER: _ClassVar[int]
    ENI_PRIMARY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    NETWORK_CARD_FIELD_NUMBER: _ClassVar[int]
    ROUTE_TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    SUBNET_CIDR_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_UNIX_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SUBNET_CIDR_V6_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_V6_FIELD_NUMBER: _ClassVar[int]
    WIRED_BY_FIELD_NUMBER: _ClassVar[int]
    key: AttachmentKey
    network_name: str
    attempt_id: str
    generation: int
    netns_cookie: int
    pod_namespace: str
    pod_name: str
    pod_uid: str
    address: str
    eni_id: str
    eni_mac: str
    eni_primary_address: str
    device_index: int
    network_card: int
    route_table_id: int
    subnet_cidr: str
    gateway: str
    allocated_unix: float
    addresses: _containers.RepeatedScalarFieldContainer[str]
    subnet_cidr_v6: str
    gateway_v6: str
    wired_by: str
    def __init__(self, key: _Optional[_Union[AttachmentKey, _Mapping]] = ..., network_name: _Optional[str] = ..., attempt_id: _Optional[str] = ..., generation: _Optional[int] = ..., netns_cookie: _Optional[int] = ..., pod_namespace: _Optional[str] = ..., pod_name: _Optional[str] = ..., pod_uid: _Optional[str] = ..., address: _Optional[str] = ..., eni_id: _Optional[str] = ..., eni_mac: _Optional[str] = ..., eni_primary_address: _Optional[str] = ..., device_index: _Optional[int] = ..., network_card: _Optional[int] = ..., route_table_id: _Optional[int] = ..., subnet_cidr: _Optional[str] = ..., gateway: _Optional[str] = ..., allocated_unix: _Optional[float] = ..., addresses: _Optional[_Iterable[str]] = ..., subnet_cidr_v6: _Optional[str] = ..., gateway_v6: _Optional[str] = ..., wired_by: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("key", "generation", "attempt_id", "is_foreign_use", "reason")
    KEY_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    IS_FOREIGN_USE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    key: AttachmentKey
    generation: int
    attempt_id: str
    is_foreign_use: bool
    reason: str
    def __init__(self, key: _Optional[_Union[AttachmentKey, _Mapping]] = ..., generation: _Optional[int] = ..., attempt_id: _Optional[str] = ..., is_foreign_use: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ("outcome", "address")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[ReleaseReply.Outcome]
        RELEASED: _ClassVar[ReleaseReply.Outcome]
        UNKNOWN_KEY: _ClassVar[ReleaseReply.Outcome]
        OTHER_GENERATION: _ClassVar[ReleaseReply.Outcome]
    OUTCOME_UNSPECIFIED: ReleaseReply.Outcome
    RELEASED: ReleaseReply.Outcome
    UNKNOWN_KEY: ReleaseReply.Outcome
    OTHER_GENERATION: ReleaseReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    outcome: ReleaseReply.Outcome
    address: str
    def __init__(self, outcome: _Optional[_Union[ReleaseReply.Outcome, str]] = ..., address: _Optional[str] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: AttachmentKey
    def __init__(self, key: _Optional[_Union[AttachmentKey, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("epoch", "allocations")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ALLOCATIONS_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    allocations: _containers.RepeatedCompositeFieldContainer[Allocation]
    def __init__(self, epoch: _Optional[str] = ..., allocations: _Optional[_Iterable[_Union[Allocation, _Mapping]]] = ...) -> None: ...

class WatchNodeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeNetwork(_message.Message):
    __slots__ = ("epoch", "sequence", "enis", "vpc_cidrs", "wants_report", "policy", "flushes")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENIS_FIELD_NUMBER: _ClassVar[int]
    VPC_CIDRS_FIELD_NUMBER: _ClassVar[int]
    WANTS_REPORT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    FLUSHES_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    sequence: int
    enis: _containers.RepeatedCompositeFieldContainer[NodeEni]
    vpc_cidrs: _containers.RepeatedScalarFieldContainer[str]
    wants_report: bool
    policy: HostPolicy
    flushes: _containers.RepeatedCompositeFieldContainer[CooledAddress]
    def __init__(self, epoch: _Optional[str] = ..., sequence: _Optional[int] = ..., enis: _Optional[_Iterable[_Union[NodeEni, _Mapping]]] = ..., vpc_cidrs: _Optional[_Iterable[str]] = ..., wants_report: _Optional[bool] = ..., policy: _Optional[_Union[HostPolicy, _Mapping]] = ..., flushes: _Optional[_Iterable[_Union[CooledAddress, _Mapping]]] = ...) -> None: ...

class HostPolicy(_message.Message):
    __slots__ = ("external_snat", "exclude_snat_cidrs", "randomize_snat", "node_port_support", "connmark", "external_service_cidrs", "always_snat", "v4_egress", "v6_egress", "pod_eni_mode", "network_policy_mode", "disable_tcp_early_demux")
    EXTERNAL_SNAT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SNAT_CIDRS_FIELD_NUMBER: _ClassVar[int]
    RANDOMIZE_SNAT_FIELD_NUMBER: _ClassVar[int]
    NODE_PORT_SUPPORT_FIELD_NUMBER: _ClassVar[int]
    CONNMARK_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_SERVICE_CIDRS_FIELD_NUMBER: _ClassVar[int]
    ALWAYS_SNAT_FIELD_NUMBER: _ClassVar[int]
    V4_EGRESS_FIELD_NUMBER: _ClassVar[int]
    V6_EGRESS_FIELD_NUMBER: _ClassVar[int]
    POD_ENI_MODE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_POLICY_MODE_FIELD_NUMBER: _ClassVar[int]
    DISABLE_TCP_EARLY_DEMUX_FIELD_NUMBER: _ClassVar[int]
    external_snat: bool
    exclude_snat_cidrs: _containers.RepeatedScalarFieldContainer[str]
    randomize_snat: str
    node_port_support: bool
    connmark: int
    external_service_cidrs: _containers.RepeatedScalarFieldContainer[str]
    always_snat: _containers.RepeatedCompositeFieldContainer[SnatDestination]
    v4_egress: bool
    v6_egress: bool
    pod_eni_mode: str
    network_policy_mode: str
    disable_tcp_early_demux: bool
    def __init__(self, external_snat: _Optional[bool] = ..., exclude_snat_cidrs: _Optional[_Iterable[str]] = ..., randomize_snat: _Optional[str] = ..., node_port_support: _Optional[bool] = ..., connmark: _Optional[int] = ..., external_service_cidrs: _Optional[_Iterable[str]] = ..., always_snat: _Optional[_Iterable[_Union[SnatDestination, _Mapping]]] = ..., v4_egress: _Optional[bool] = ..., v6_egress: _Optional[bool] = ..., pod_eni_mode: _Optional[str] = ..., network_policy_mode: _Optional[str] = ..., disable_tcp_early_demux: _Optional[bool] = ...) -> None: ...

class SnatDestination(_message.Message):
    __slots__ = ("cidr", "protocol", "port")
    CIDR_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    cidr: str
    protocol: str
    port: int
    def __init__(self, cidr: _Optional[str] = ..., protocol: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class CooledAddress(_message.Message):
    __slots__ = ("address", "since_boottime")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SINCE_BOOTTIME_FIELD_NUMBER: _ClassVar[int]
    address: str
    since_boottime: float
    def __init__(self, address: _Optional[str] = ..., since_boottime: _Optional[float] = ...) -> None: ...

class ReportFlushedRequest(_message.Message):
    __slots__ = ("epoch", "addresses")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    addresses: _containers.RepeatedCompositeFieldContainer[CooledAddress]
    def __init__(self, epoch: _Optional[str] = ..., addresses: _Optional[_Iterable[_Union[CooledAddress, _Mapping]]] = ...) -> None: ...

class ReportFlushedReply(_message.Message):
    __slots__ = ("is_accepted",)
    IS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    is_accepted: bool
    def __init__(self, is_accepted: _Optional[bool] = ...) -> None: ...

class NodeEni(_message.Message):
    __slots__ = ("eni_id", "mac", "primary_address", "subnet_cidr", "gateway", "device_index", "network_card", "route_table_id", "is_primary", "subnet_cidr_v6", "primary_address_v6", "gateway_v6", "is_trunk")
    ENI_ID_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SUBNET_CIDR_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    NETWORK_CARD_FIELD_NUMBER: _ClassVar[int]
    ROUTE_TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    IS_PRIMARY_FIELD_NUMBER: _ClassVar[int]
    SUBNET_CIDR_V6_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_ADDRESS_V6_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_V6_FIELD_NUMBER: _ClassVar[int]
    IS_TRUNK_FIELD_NUMBER: _ClassVar[int]
    eni_id: str
    mac: str
    primary_address: str
    subnet_cidr: str
    gateway: str
    device_index: int
    network_card: int
    route_table_id: int
    is_primary: bool
    subnet_cidr_v6: str
    primary_address_v6: str
    gateway_v6: str
    is_trunk: bool
    def __init__(self, eni_id: _Optional[str] = ..., mac: _Optional[str] = ..., primary_address: _Optional[str] = ..., subnet_cidr: _Optional[str] = ..., gateway: _Optional[str] = ..., device_index: _Optional[int] = ..., network_card: _Optional[int] = ..., route_table_id: _Optional[int] = ..., is_primary: _Optional[bool] = ..., subnet_cidr_v6: _Optional[str] = ..., primary_address_v6: _Optional[str] = ..., gateway_v6: _Optional[str] = ..., is_trunk: _Optional[bool] = ...) -> None: ...

class ReportNodeRequest(_message.Message):
    __slots__ = ("epoch", "enis", "addresses", "notes")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ENIS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    enis: _containers.RepeatedCompositeFieldContainer[EniReport]
    addresses: _containers.RepeatedCompositeFieldContainer[ObservedAddress]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, epoch: _Optional[str] = ..., enis: _Optional[_Iterable[_Union[EniReport, _Mapping]]] = ..., addresses: _Optional[_Iterable[_Union[ObservedAddress, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class EniReport(_message.Message):
    __slots__ = ("eni_id", "is_ready", "link_name", "message")
    ENI_ID_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FIELD_NUMBER: _ClassVar[int]
    LINK_NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    eni_id: str
    is_ready: bool
    link_name: str
    message: str
    def __init__(self, eni_id: _Optional[str] = ..., is_ready: _Optional[bool] = ..., link_name: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ObservedAddress(_message.Message):
    __slots__ = ("address", "link_name", "key", "netns_cookie", "network_name", "pod_namespace", "pod_name", "is_on_host")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LINK_NAME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NETNS_COOKIE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    IS_ON_HOST_FIELD_NUMBER: _ClassVar[int]
    address: str
    link_name: str
    key: AttachmentKey
    netns_cookie: int
    network_name: str
    pod_namespace: str
    pod_name: str
    is_on_host: bool
    def __init__(self, address: _Optional[str] = ..., link_name: _Optional[str] = ..., key: _Optional[_Union[AttachmentKey, _Mapping]] = ..., netns_cookie: _Optional[int] = ..., network_name: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod_name: _Optional[str] = ..., is_on_host: _Optional[bool] = ...) -> None: ...

class ReportNodeReply(_message.Message):
    __slots__ = ("is_accepted", "unknown_addresses")
    IS_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    is_accepted: bool
    unknown_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, is_accepted: _Optional[bool] = ..., unknown_addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("version", "epoch", "instance_id", "instance_type", "zone", "uptime_seconds", "pool", "enis", "subnets", "last_plan", "waiting_allocations", "problems", "max_pods", "targets", "addresses", "is_cloud_answering", "is_node_reporting", "mode", "notes")
    class PoolEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TargetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    ENIS_FIELD_NUMBER: _ClassVar[int]
    SUBNETS_FIELD_NUMBER: _ClassVar[int]
    LAST_PLAN_FIELD_NUMBER: _ClassVar[int]
    WAITING_ALLOCATIONS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_PODS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    IS_CLOUD_ANSWERING_FIELD_NUMBER: _ClassVar[int]
    IS_NODE_REPORTING_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    version: str
    epoch: str
    instance_id: str
    instance_type: str
    zone: str
    uptime_seconds: float
    pool: _containers.ScalarMap[str, int]
    enis: _containers.RepeatedCompositeFieldContainer[EniStatus]
    subnets: _containers.RepeatedCompositeFieldContainer[SubnetStatus]
    last_plan: PlanStatus
    waiting_allocations: int
    problems: _containers.RepeatedScalarFieldContainer[str]
    max_pods: int
    targets: _containers.ScalarMap[str, str]
    addresses: _containers.RepeatedCompositeFieldContainer[AddressStatus]
    is_cloud_answering: bool
    is_node_reporting: bool
    mode: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., epoch: _Optional[str] = ..., instance_id: _Optional[str] = ..., instance_type: _Optional[str] = ..., zone: _Optional[str] = ..., uptime_seconds: _Optional[float] = ..., pool: _Optional[_Mapping[str, int]] = ..., enis: _Optional[_Iterable[_Union[EniStatus, _Mapping]]] = ..., subnets: _Optional[_Iterable[_Union[SubnetStatus, _Mapping]]] = ..., last_plan: _Optional[_Union[PlanStatus, _Mapping]] = ..., waiting_allocations: _Optional[int] = ..., problems: _Optional[_Iterable[str]] = ..., max_pods: _Optional[int] = ..., targets: _Optional[_Mapping[str, str]] = ..., addresses: _Optional[_Iterable[_Union[AddressStatus, _Mapping]]] = ..., is_cloud_answering: _Optional[bool] = ..., is_node_reporting: _Optional[bool] = ..., mode: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class EniStatus(_message.Message):
    __slots__ = ("eni_id", "device_index", "mac", "subnet_id", "primary_address", "is_primary", "is_ready", "addresses", "slots", "link_name", "slots_used", "prefixes", "network_card", "excluded")
    class AddressesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ENI_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_PRIMARY_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    LINK_NAME_FIELD_NUMBER: _ClassVar[int]
    SLOTS_USED_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_CARD_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    eni_id: str
    device_index: int
    mac: str
    subnet_id: str
    primary_address: str
    is_primary: bool
    is_ready: bool
    addresses: _containers.ScalarMap[str, int]
    slots: int
    link_name: str
    slots_used: int
    prefixes: _containers.RepeatedCompositeFieldContainer[PrefixStatus]
    network_card: int
    excluded: str
    def __init__(self, eni_id: _Optional[str] = ..., device_index: _Optional[int] = ..., mac: _Optional[str] = ..., subnet_id: _Optional[str] = ..., primary_address: _Optional[str] = ..., is_primary: _Optional[bool] = ..., is_ready: _Optional[bool] = ..., addresses: _Optional[_Mapping[str, int]] = ..., slots: _Optional[int] = ..., link_name: _Optional[str] = ..., slots_used: _Optional[int] = ..., prefixes: _Optional[_Iterable[_Union[PrefixStatus, _Mapping]]] = ..., network_card: _Optional[int] = ..., excluded: _Optional[str] = ...) -> None: ...

class PrefixStatus(_message.Message):
    __slots__ = ("prefix", "addresses")
    class AddressesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    addresses: _containers.ScalarMap[str, int]
    def __init__(self, prefix: _Optional[str] = ..., addresses: _Optional[_Mapping[str, int]] = ...) -> None: ...

class SubnetStatus(_message.Message):
    __slots__ = ("subnet_id", "cidr", "free_addresses", "seen_seconds_ago", "exhausted_for_seconds", "prefixless_for_seconds", "is_scarce", "is_candidate")
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    CIDR_FIELD_NUMBER: _ClassVar[int]
    FREE_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SEEN_SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREFIXLESS_FOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IS_SCARCE_FIELD_NUMBER: _ClassVar[int]
    IS_CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    subnet_id: str
    cidr: str
    free_addresses: int
    seen_seconds_ago: float
    exhausted_for_seconds: float
    prefixless_for_seconds: float
    is_scarce: bool
    is_candidate: bool
    def __init__(self, subnet_id: _Optional[str] = ..., cidr: _Optional[str] = ..., free_addresses: _Optional[int] = ..., seen_seconds_ago: _Optional[float] = ..., exhausted_for_seconds: _Optional[float] = ..., prefixless_for_seconds: _Optional[float] = ..., is_scarce: _Optional[bool] = ..., is_candidate: _Optional[bool] = ...) -> None: ...

class PlanStatus(_message.Message):
    __slots__ = ("made_seconds_ago", "summary", "actions")
    MADE_SECONDS_AGO_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    made_seconds_ago: float
    summary: str
    actions: _containers.RepeatedCompositeFieldContainer[PlannedAction]
    def __init__(self, made_seconds_ago: _Optional[float] = ..., summary: _Optional[str] = ..., actions: _Optional[_Iterable[_Union[PlannedAction, _Mapping]]] = ...) -> None: ...

class PlannedAction(_message.Message):
    __slots__ = ("verb", "subject", "reason", "state", "error", "seconds")
    VERB_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    verb: str
    subject: str
    reason: str
    state: str
    error: str
    seconds: float
    def __init__(self, verb: _Optional[str] = ..., subject: _Optional[str] = ..., reason: _Optional[str] = ..., state: _Optional[str] = ..., error: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class AddressStatus(_message.Message):
    __slots__ = ("address", "state", "eni_id", "since_seconds", "key", "pod_namespace", "pod_name", "reason", "prefix")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENI_ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    address: str
    state: str
    eni_id: str
    since_seconds: float
    key: AttachmentKey
    pod_namespace: str
    pod_name: str
    reason: str
    prefix: str
    def __init__(self, address: _Optional[str] = ..., state: _Optional[str] = ..., eni_id: _Optional[str] = ..., since_seconds: _Optional[float] = ..., key: _Optional[_Union[AttachmentKey, _Mapping]] = ..., pod_namespace: _Optional[str] = ..., pod_name: _Optional[str] = ..., reason: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("reason", "message", "retry_after_seconds", "subnet_id", "eni_id")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[ErrorDetail.Reason]
        NO_ADDRESS: _ClassVar[ErrorDetail.Reason]
        NOT_READY: _ClassVar[ErrorDetail.Reason]
        ATTACHMENT_CONFLICT: _ClassVar[ErrorDetail.Reason]
        ATTEMPT_REVOKED: _ClassVar[ErrorDetail.Reason]
        UNKNOWN_ATTACHMENT: _ClassVar[ErrorDetail.Reason]
        BAD_REQUEST: _ClassVar[ErrorDetail.Reason]
        STORE_FAILED: _ClassVar[ErrorDetail.Reason]
    REASON_UNSPECIFIED: ErrorDetail.Reason
    NO_ADDRESS: ErrorDetail.Reason
    NOT_READY: ErrorDetail.Reason
    ATTACHMENT_CONFLICT: ErrorDetail.Reason
    ATTEMPT_REVOKED: ErrorDetail.Reason
    UNKNOWN_ATTACHMENT: ErrorDetail.Reason
    BAD_REQUEST: ErrorDetail.Reason
    STORE_FAILED: ErrorDetail.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SUBNET_ID_FIELD_NUMBER: _ClassVar[int]
    ENI_ID_FIELD_NUMBER: _ClassVar[int]
    reason: ErrorDetail.Reason
    message: str
    retry_after_seconds: float
    subnet_id: str
    eni_id: str
    def __init__(self, reason: _Optional[_Union[ErrorDetail.Reason, str]] = ..., message: _Optional[str] = ..., retry_after_seconds: _Optional[float] = ..., subnet_id: _Optional[str] = ..., eni_id: _Optional[str] = ...) -> None: ...
