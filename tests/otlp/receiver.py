"""An OTLP receiver out of the official protobuf classes, for tests.

It takes traces, metrics and logs over gRPC and HTTP, keeps them as JSON, and answers as it is told to:

    GET  /received        what was received: requests (signal, protocol, path, headers, items), and the
                          items: traces (spans), metrics (data points), logs (records); and how many requests
                          were begun
    POST /behave          {"refuse": status, "throttle": times, "hang": seconds, "reject": items,
                           "redirect": address}

The ports are printed as one line of JSON once both listen.
"""

import argparse
import gzip
import json
import ssl
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import any_pb2, duration_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

LOCK = threading.Lock()
REQUESTS = []
BEGUN = []
BEHAVIOUR = {"refuse": 0, "throttle": 0, "hang": 0, "reject": 0, "redirect": ""}


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(one) for one in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def spans(request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "resource": attributes(resource.resource.attributes),
                    "scope": scope.scope.name,
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": trace_pb2.Span.SpanKind.Name(span.kind),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "status": trace_pb2.Status.StatusCode.Name(span.status.code),
                    "message": span.status.message,
                    "attributes": attributes(span.attributes),
                    "events": [
                        {"name": event.name, "attributes": attributes(event.attributes)}
                        for event in span.events
                    ],
                    "links": [link.span_id.hex() for link in span.links],
                }


def data_points(request):
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                for point in data.data_points:
                    one = {
                        "resource": attributes(resource.resource.attributes),
                        "scope": scope.scope.name,
                        "name": metric.name,
                        "unit": metric.unit,
                        "kind": kind,
                        "attributes": attributes(point.attributes),
                        "time": point.time_unix_nano,
                    }
                    if kind != "gauge":
                        temporality = data.aggregation_temporality
                        one["temporality"] = metrics_pb2.AggregationTemporality.Name(temporality)
                    if kind == "histogram":
                        one |= {"count": point.count, "sum": point.sum}
                    else:
                        one["value"] = getattr(point, point.WhichOneof("value"))
                    yield one


def log_records(request):
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield {
                    "resource": attributes(resource.resource.attributes),
                    "scope": scope.scope.name,
                    "name": record.event_name,
                    "severity": record.severity_text,
                    "body": value(record.body),
                    "attributes": attributes(record.attributes),
                    "trace_id": record.trace_id.hex(),
                    "span_id": record.span_id.hex(),
                    "time": record.time_unix_nano or record.observed_time_unix_nano,
                }


class Signal:
    def __init__(self, name, read, request, response, rejected, base, add):
        self.name, self.read, self.request, self.response = name, read, request, response
        self.rejected, self.base, self.add = rejected, base, add
        self.items = []

    def keep(self, request, protocol, path, headers):
        items = list(self.read(request))
        with LOCK:
            REQUESTS.append(
                {
                    "signal": self.name,
                    "protocol": protocol,
                    "path": path,
                    "headers": headers,
                    "items": len(items),
                }
            )
            self.items.extend(items)

    def answer(self, rejected):
        response = self.response()
        if rejected:
            setattr(response.partial_success, self.rejected, rejected)
            response.partial_success.error_message = "not these"
        return response


SIGNALS = [
    Signal(
        "traces",
        spans,
        trace_service_pb2.ExportTraceServiceRequest,
        trace_service_pb2.ExportTraceServiceResponse,
        "rejected_spans",
        trace_service_pb2_grpc.TraceServiceServicer,
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
    ),
    Signal(
        "metrics",
        data_points,
        metrics_service_pb2.ExportMetricsServiceRequest,
        metrics_service_pb2.ExportMetricsServiceResponse,
        "rejected_data_points",
        metrics_service_pb2_grpc.MetricsServiceServicer,
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
    ),
    Signal(
        "logs",
        log_records,
        logs_service_pb2.ExportLogsServiceRequest,
        logs_service_pb2.ExportLogsServiceResponse,
        "rejected_log_records",
        logs_service_pb2_grpc.LogsServiceServicer,
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server,
    ),
]


def behaviour():
    """What to do with this request: an instruction is used up by it."""
    with LOCK:
        BEGUN.append(1)
        now = dict(BEHAVIOUR)
        BEHAVIOUR["throttle"] = max(0, BEHAVIOUR["throttle"] - 1)
    time.sleep(now["hang"])
    return now


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        return data

    def reply(self, status, data=b"", **headers):
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        with LOCK:
            received = {signal.name: signal.items for signal in SIGNALS}
            received |= {"requests": REQUESTS, "begun": len(BEGUN)}
            data = json.dumps(received).encode()
        self.reply(200, data, content_type="application/json")

    def do_POST(self):
        data = self.body()
        if self.path == "/behave":
            with LOCK:
                BEHAVIOUR.update(json.loads(data))
            return self.reply(200)
        signal = next((one for one in SIGNALS if self.path.endswith("/" + one.name)), None)
        if signal is None:
            return self.reply(404)
        now = behaviour()
        if now["refuse"]:
            return self.reply(now["refuse"])
        if now["redirect"]:
            return self.reply(307, location=now["redirect"])
        if now["throttle"]:
            return self.reply(429, retry_after="1")
        request = signal.request.FromString(data)
        headers = {name.lower(): text for name, text in self.headers.items()}
        signal.keep(request, "http", self.path, headers)
        data = signal.answer(now["reject"]).SerializeToString()
        self.reply(200, data, content_type="application/x-protobuf")


def servicer(signal):
    """A service of gRPC; there is one for each signal."""

    def export(self, request, context):
        now = behaviour()
        if now["refuse"]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such key")
        if now["throttle"]:
            # google.rpc.Status { code: 8, details: [RetryInfo { retry_delay: 1 s }] }, by hand:
            # its classes are in a package of their own.
            delay = duration_pb2.Duration(seconds=1).SerializeToString()
            retry = b"\x0a" + bytes([len(delay)]) + delay
            detail = any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry)
            detail = detail.SerializeToString()
            status = b"\x08\x08\x1a" + bytes([len(detail)]) + detail
            context.set_trailing_metadata((("grpc-status-details-bin", status),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")
        signal.keep(request, "grpc", "", dict(context.invocation_metadata()))
        return signal.answer(now["reject"])

    return type(signal.name, (signal.base,), {"Export": export})()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int, default=0)
    parser.add_argument("--grpc", type=int, default=0)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--client-authority")
    args = parser.parse_args()

    server = grpc.server(
        futures.ThreadPoolExecutor(8), compression=grpc.Compression.Gzip
    )
    for signal in SIGNALS:
        signal.add(servicer(signal), server)
    http = ThreadingHTTPServer(("127.0.0.1", args.http), Http)
    if args.certificate:
        with open(args.key, "rb") as key, open(args.certificate, "rb") as certificate:
            pair = (key.read(), certificate.read())
        authority = None
        if args.client_authority:
            with open(args.client_authority, "rb") as file:
                authority = file.read()
        credentials = grpc.ssl_server_credentials([pair], authority, authority is not None)
        grpc_port = server.add_secure_port(f"127.0.0.1:{args.grpc}", credentials)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args.certificate, args.key)
        if authority:
            context.load_verify_locations(args.client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
        http.socket = context.wrap_socket(http.socket, server_side=True)
    else:
        grpc_port = server.add_insecure_port(f"127.0.0.1:{args.grpc}")
    server.start()
    print(json.dumps({"http": http.server_port, "grpc": grpc_port}), flush=True)
    http.serve_forever()


main()
