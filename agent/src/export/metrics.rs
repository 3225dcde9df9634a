//! The agent's own metrics: what the stations' ledgers say, over OTLP and as a table for the log.
//!
//! A station's ledger is a struct of plain `u64` fields that implements [`Report`] by destructuring itself
//! without `..`, so that a counter nobody exports does not compile. Values are cumulative since the agent
//! started. A name that ends in `_total` only grows; any other is a level (what is held now).
//! Nothing here counts, and a failure to send metrics must never touch spans.

use std::fmt::Write as _;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric,
    number_data_point,
};

use super::encode::{self, SCHEMA_URL, SCOPE_NAME, SCOPE_VERSION};
use super::settings::Environment;
use crate::discover::{Resource, ResourceValue};

/// One number of a ledger.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Counter {
    /// `spandrel_<station>_<what>_total`, or without `_total` for a level.
    pub name: &'static str,
    /// The label `cause`.
    pub cause: Option<&'static str>,
    /// Since the agent started.
    pub value: u64,
}

impl Counter {
    /// A number without a cause.
    pub fn new(name: &'static str, value: u64) -> Self {
        Self { name, cause: None, value }
    }

    /// A number by cause.
    pub fn by(name: &'static str, cause: &'static str, value: u64) -> Self {
        Self { name, cause: Some(cause), value }
    }
}

/// What has numbers to tell.
pub trait Report {
    /// Appends all its numbers.
    fn counters(&self, out: &mut Vec<Counter>);
}

/// The counters as what a metrics service is sent. Times are nanoseconds since 1970.
pub fn request(
    agent: &Resource,
    counters: &[Counter],
    started: u64,
    now: u64,
) -> ExportMetricsServiceRequest {
    let mut metrics: Vec<Metric> = Vec::new();
    for counter in merged(counters) {
        let point = NumberDataPoint {
            attributes: counter.cause.map(|cause| encode::text("cause", cause)).into_iter().collect(),
            start_time_unix_nano: started,
            time_unix_nano: now.max(started),
            exemplars: Vec::new(),
            flags: 0,
            value: Some(number_data_point::Value::AsInt(i64::try_from(counter.value).unwrap_or(i64::MAX))),
        };
        let known = metrics.last_mut().filter(|metric| metric.name == counter.name);
        match known.and_then(|metric| metric.data.as_mut()) {
            Some(metric::Data::Sum(sum)) => sum.data_points.push(point),
            Some(metric::Data::Gauge(gauge)) => gauge.data_points.push(point),
            _ => metrics.push(Metric {
                name: counter.name.to_owned(),
                description: String::new(),
                unit: if counter.name.contains("_bytes") { "By" } else { "" }.to_owned(),
                metadata: Vec::new(),
                data: Some(if counter.name.ends_with("_total") {
                    metric::Data::Sum(Sum {
                        data_points: vec![point],
                        aggregation_temporality: AggregationTemporality::Cumulative as i32,
                        is_monotonic: true,
                    })
                } else {
                    metric::Data::Gauge(Gauge { data_points: vec![point] })
                }),
            }),
        }
    }
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(encode::resource(agent)),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(encode::scope()),
                metrics,
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }],
    }
}

/// The counters as lines of text, one each, right-aligned; those that are 0 are left out.
pub fn table(counters: &[Counter]) -> String {
    let rows: Vec<(String, u64)> = merged(counters)
        .into_iter()
        .filter(|counter| counter.value > 0)
        .map(|counter| match counter.cause {
            Some(cause) => (format!("{}{{cause={cause}}}", counter.name), counter.value),
            None => (counter.name.to_owned(), counter.value),
        })
        .collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<width$} {value:>12}");
    }
    text
}

/// Sorted by name and cause; equal ones (two ledgers of one kind) added up.
fn merged(counters: &[Counter]) -> Vec<Counter> {
    let mut sorted = counters.to_vec();
    sorted.sort_unstable();
    let mut result: Vec<Counter> = Vec::with_capacity(sorted.len());
    for counter in sorted {
        match result.last_mut().filter(|last| (last.name, last.cause) == (counter.name, counter.cause)) {
            Some(last) => last.value = last.value.saturating_add(counter.value),
            None => result.push(counter),
        }
    }
    result
}

/// The resource that the agent's own metrics belong to: `OTEL_SERVICE_NAME`, else `service.name` of
/// `OTEL_RESOURCE_ATTRIBUTES`, else `spandrel`. `instance` is random, once per start of the agent.
pub fn agent_resource(env: Environment<'_>, instance: u128) -> Resource {
    let variable = |key| env(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let mut attributes: Vec<(String, ResourceValue)> = Vec::new();
    let mut set = |key: &str, value: String| {
        let value = ResourceValue::Text(value);
        match attributes.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => attributes.push((key.to_owned(), value)),
        }
    };
    set("service.name", SCOPE_NAME.to_owned());
    set("service.version", SCOPE_VERSION.to_owned());
    set("service.instance.id", uuid(instance));
    set("telemetry.sdk.name", SCOPE_NAME.to_owned());
    set("telemetry.sdk.language", "rust".to_owned());
    set("telemetry.sdk.version", SCOPE_VERSION.to_owned());
    let listed = variable("OTEL_RESOURCE_ATTRIBUTES").and_then(|list| resource_attributes(&list));
    for (key, value) in listed.unwrap_or_default() {
        set(&key, value);
    }
    if let Some(name) = variable("OTEL_SERVICE_NAME") {
        set("service.name", name);
    }
    let service = attributes
        .iter()
        .find_map(|(key, value)| match value {
            ResourceValue::Text(text) if key == "service.name" => Some(text.clone()),
            _ => None,
        })
        .unwrap_or_default();
    Resource { service, attributes }
}

/// `OTEL_RESOURCE_ATTRIBUTES`: `key=value,…`, percent-encoded. A list with any error counts for nothing
/// (OpenTelemetry specification, "Specifying resource information via an environment variable").
pub fn resource_attributes(list: &str) -> Option<Vec<(String, String)>> {
    list.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let key = key.trim();
            (!key.is_empty()).then_some(())?;
            Some((strictly_decoded(key)?, strictly_decoded(value.trim())?))
        })
        .collect()
}

fn strictly_decoded(text: &str) -> Option<String> {
    let decoded = super::settings::percent_decoded(text)?;
    String::from_utf8(decoded).ok()
}

/// A random number as a UUID of version 4 (RFC 9562 §5.4).
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let mut parts = Vec::new();
    let mut rest = hex.as_str();
    for length in [8, 4, 4, 4, 12] {
        let (part, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        parts.push(part);
        rest = after;
    }
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTERS: [Counter; 5] = [
        Counter { name: "spandrel_export_dropped_spans_total", cause: Some("refused"), value: 2 },
        Counter { name: "spandrel_export_waiting_spans", cause: None, value: 7 },
        Counter { name: "spandrel_export_dropped_spans_total", cause: Some("gave_up"), value: 1 },
        Counter { name: "spandrel_stream_held_bytes_total", cause: None, value: 0 },
        Counter { name: "spandrel_export_dropped_spans_total", cause: Some("refused"), value: 3 },
    ];

    #[test]
    fn totals_are_cumulative_sums_by_cause_and_levels_are_gauges() {
        let request = request(&agent_resource(&|_| None, 1), &COUNTERS, 100, 200);
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        assert_eq!(
            metrics.iter().map(|m| (&*m.name, &*m.unit)).collect::<Vec<_>>(),
            [
                ("spandrel_export_dropped_spans_total", ""),
                ("spandrel_export_waiting_spans", ""),
                ("spandrel_stream_held_bytes_total", "By")
            ]
        );
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (2, true));
        let points: Vec<_> = sum.data_points.iter().map(|p| (p.attributes.clone(), p.value)).collect();
        let int = |n| Some(number_data_point::Value::AsInt(n));
        let cause = |c| vec![encode::text("cause", c)];
        assert_eq!(points, [(cause("gave_up"), int(1)), (cause("refused"), int(5))]);
        assert!(sum.data_points.iter().all(|p| (p.start_time_unix_nano, p.time_unix_nano) == (100, 200)));
        assert!(matches!(&metrics[1].data, Some(metric::Data::Gauge(_))));
    }

    #[test]
    fn in_json_numbers_are_strings_and_nothing_is_null() {
        let request = request(&agent_resource(&|_| None, 1), &COUNTERS, 100, 200);
        let json = serde_json::to_value(&request).unwrap();
        let metrics = &json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        let point = &metrics[0]["sum"]["dataPoints"][1];
        assert_eq!((&point["asInt"], &point["timeUnixNano"]), (&"5".into(), &"200".into()));
        assert_eq!(metrics[0]["sum"]["aggregationTemporality"], 2);
        assert_eq!(metrics[1]["gauge"]["dataPoints"][0]["asInt"], "7");
        assert!(!json.to_string().contains("null"), "{json}");
    }

    #[test]
    fn the_table_is_aligned_and_leaves_zeros_out() {
        assert_eq!(
            table(&COUNTERS),
            "spandrel_export_dropped_spans_total{cause=gave_up}            1\n\
             spandrel_export_dropped_spans_total{cause=refused}            5\n\
             spandrel_export_waiting_spans                                 7\n"
        );
    }

    #[test]
    fn the_agents_own_name_follows_the_variables() {
        let named = |text: &'static str| {
            let env = move |key: &str| {
                text.lines()
                    .find_map(|l| l.split_once(' '))
                    .filter(|(k, _)| *k == key)
                    .map(|(_, v)| v.to_owned())
            };
            agent_resource(&env, 0).service
        };
        assert_eq!(named(""), "spandrel");
        assert_eq!(named("OTEL_SERVICE_NAME edge"), "edge");
        assert_eq!(named("OTEL_RESOURCE_ATTRIBUTES a=b,service.name=node%201"), "node 1");
        assert_eq!(named("OTEL_RESOURCE_ATTRIBUTES service.name=x,broken"), "spandrel");
        assert_eq!(named("OTEL_RESOURCE_ATTRIBUTES service.name=%zz"), "spandrel");
    }

    #[test]
    fn an_instance_is_a_uuid_of_version_4() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
