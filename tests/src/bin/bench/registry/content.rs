//! What is in the registry: services in several namespaces, with ten endpoints each.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;

use mesh_tests::registry::with;
use serde_json::{Value, json};

/// Endpoints of each service.
pub(super) const ENDPOINTS: u32 = 10;
/// Namespaces that the services are spread over.
const NAMESPACES: u32 = 20;
/// The port of every service and endpoint.
pub(super) const PORT: u16 = 8_080;
/// Services of one file.
const PART: u32 = 100;
/// Every so many services there is one whose endpoints are all alike.
const PLAIN: u32 = 5;

/// How much is measured.
pub(crate) struct Size {
    /// Services in the registry; a multiple of [`NAMESPACES`] and of [`PART`].
    pub(super) services: u32,
    /// Clients that wait for changes.
    pub(super) clients: u32,
    /// How long changes arrive.
    pub(super) seconds: u32,
    /// Places that change in turn: with 100 changes a second, 200 rest for two seconds each.
    pub(super) places: u32,
}

impl Size {
    /// 10,000 services, 100,000 endpoints, 1,000 clients.
    pub(crate) const WHOLE: Self = Self {
        services: 10_000,
        clients: 1_000,
        seconds: 20,
        places: 200,
    };
    /// One twentieth of that.
    pub(crate) const QUICK: Self = Self {
        services: 500,
        clients: 50,
        seconds: 5,
        places: 100,
    };

    pub(super) const fn endpoints(&self) -> u32 {
        self.services * ENDPOINTS
    }

    /// The namespace and the name of a service.
    pub(super) fn service(&self, number: u32) -> (String, String) {
        let namespace = number / (self.services / NAMESPACES);
        (format!("size-{namespace}"), format!("s{number}"))
    }

    /// One of the services whose endpoints are all alike: another one for each place, spread over the namespaces.
    pub(super) const fn plain(&self, place: u32) -> u32 {
        place * (self.services / self.places) / PLAIN * PLAIN
    }

    /// Writes files with all of it, some hundred objects in each: services first, for so the others find them.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        for part in 0..self.services / PART {
            let numbers = part * PART..(part + 1) * PART;
            let services = numbers.clone().map(|number| self.service_object(number));
            write(&folder.join(format!("a-services-{part}.yaml")), services)?;
            let endpoints = numbers.flat_map(|number| {
                (0..ENDPOINTS).map(move |place| self.endpoint_object(number, place))
            });
            write(&folder.join(format!("b-endpoints-{part}.yaml")), endpoints)?;
        }
        Ok(())
    }

    fn service_object(&self, number: u32) -> Value {
        let (namespace, name) = self.service(number);
        let protocol = if number.is_multiple_of(2) {
            "http"
        } else {
            "tcp"
        };
        object(
            "Service",
            (&namespace, &name),
            &json!({ "team": format!("team-{}", number % 40) }),
            &json!({ "ports": [{ "name": "main", "port": PORT, "protocol": protocol }] }),
        )
    }

    fn endpoint_object(&self, number: u32, place: u32) -> Value {
        let (namespace, service) = self.service(number);
        let name = format!("{service}-{place}");
        let address = address(number * ENDPOINTS + place);
        let spec = json!({ "service": service, "address": address, "port": PORT, "weight": 1 });
        let version = format!("v{}", 1 + place % 2);
        if number.is_multiple_of(PLAIN) {
            return object("Endpoint", (&namespace, &name), &json!({}), &spec);
        }
        let labels = json!({ "version": version });
        let fields = json!({
            "version": version,
            "weight": 1 + place % 3,
            "tags": ["primary"],
            "locality": { "region": "north", "zone": format!("north-{}", place % 3) },
        });
        with(
            object("Endpoint", (&namespace, &name), &labels, &spec),
            &fields,
        )
    }
}

fn write(path: &Path, objects: impl Iterator<Item = Value>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for object in objects {
        writeln!(out, "---\n{object}")?;
    }
    out.flush()
}

/// The `number`th address of the endpoints: all in the upper half of 10.0.0.0/8, because pods are in the lower.
pub(super) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 1).to_bits() + number)
}

/// An object of any kind.
pub(super) fn object(
    kind: &str,
    (namespace, name): (&str, &str),
    labels: &Value,
    spec: &Value,
) -> Value {
    json!({
        "apiVersion": "mesh.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": spec,
    })
}
