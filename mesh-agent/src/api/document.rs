//! The `OpenAPI` document: the views describe themselves, the routes of objects are described per kind.

use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, Components, ObjectBuilder, Schema, Type};
use utoipa::openapi::{
    Content, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, Required, Response,
    ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{PROBLEM_JSON, Problem};
use super::{Context, graph, objects, views};
use crate::state::endpoint::{EndpointSpec, EndpointStatus};
use crate::state::grpc_route::GrpcRouteSpec;
use crate::state::http_route::HttpRouteSpec;
use crate::state::object::{Kind, Object};
use crate::state::policy::{AuthorizationPolicySpec, AuthorizationPolicyStatus};
use crate::state::reference_grant::{ReferenceGrantSpec, ReferenceGrantStatus};
use crate::state::route::RouteStatus;
use crate::state::service::{ServiceSpec, ServiceStatus};
use crate::state::stream_route::{TcpRouteSpec, TlsRouteSpec};
use crate::state::traffic_policy::{TrafficPolicySpec, TrafficPolicyStatus};
use crate::state::workload::{WorkloadSpec, WorkloadStatus};

/// Everything that is not an object, with its description.
pub(super) fn views() -> OpenApiRouter<Context> {
    let info = InfoBuilder::new()
        .title("mesh-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The registry and the state of one node of the mesh."))
        .build();
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build())
        .routes(routes!(views::status))
        .routes(routes!(views::coverage))
        .routes(routes!(views::connections))
        .routes(routes!(views::breakers))
        .routes(routes!(graph::graph))
        .routes(routes!(graph::readiness))
        .routes(routes!(views::bpf))
        .routes(routes!(views::explain))
        .routes(routes!(views::config_dump))
        .routes(routes!(views::log_level))
        .routes(routes!(views::drain))
        .routes(routes!(views::healthz))
        .routes(routes!(views::readyz))
        .routes(routes!(views::metrics))
}

/// The document: the views, the routes of objects of every kind, and those of the documentation itself.
pub(super) fn whole() -> OpenApi {
    let mut document = views().into_openapi();
    let components = document.components.get_or_insert_with(Components::new);
    register_object::<ServiceSpec, ServiceStatus>(components, "Service");
    register_object::<EndpointSpec, EndpointStatus>(components, "Endpoint");
    register_object::<WorkloadSpec, WorkloadStatus>(components, "Workload");
    register_object::<AuthorizationPolicySpec, AuthorizationPolicyStatus>(
        components,
        "AuthorizationPolicy",
    );
    register_object::<HttpRouteSpec, RouteStatus>(components, Kind::HttpRoute.name());
    register_object::<GrpcRouteSpec, RouteStatus>(components, Kind::GrpcRoute.name());
    register_object::<TcpRouteSpec, RouteStatus>(components, Kind::TcpRoute.name());
    register_object::<TlsRouteSpec, RouteStatus>(components, Kind::TlsRoute.name());
    register_object::<ReferenceGrantSpec, ReferenceGrantStatus>(
        components,
        Kind::ReferenceGrant.name(),
    );
    register_object::<TrafficPolicySpec, TrafficPolicyStatus>(
        components,
        Kind::TrafficPolicy.name(),
    );
    register::<Problem>(components, "Problem");
    for kind in Kind::ALL {
        components
            .schemas
            .insert(format!("{kind}List"), list_schema(kind));
    }
    let paths = &mut document.paths.paths;
    for kind in Kind::ALL {
        let [object, namespaced, all] = objects::paths(kind);
        paths.insert(object, object_item(kind));
        paths.insert(namespaced, list_item(kind, true));
        paths.insert(all, list_item(kind, false));
    }
    let document_operation = operation("documentation", "openapi", "This document.")
        .response("200", plain("The document.", "application/json"));
    let docs_operation = operation("documentation", "docs", "This document, for people.")
        .response("303", Response::new("Leads to the page."));
    let item = |operation: OperationBuilder| PathItem::new(HttpMethod::Get, operation);
    paths.insert("/openapi.json".to_owned(), item(document_operation));
    paths.insert("/docs".to_owned(), item(docs_operation));
    document
}

fn register_object<S, T>(components: &mut Components, name: &str)
where
    S: ToSchema + PartialSchema,
    T: ToSchema + PartialSchema + Default,
{
    register::<Object<S, T>>(components, name);
    // What a generic type refers to by its parameters is not among its own schemas.
    register::<S>(components, &S::name());
    register::<T>(components, &T::name());
}

fn register<T: ToSchema + PartialSchema>(components: &mut Components, name: &str) {
    let mut referenced = Vec::new();
    T::schemas(&mut referenced);
    components.schemas.extend(referenced);
    components.schemas.insert(name.to_owned(), T::schema());
}

fn list_schema(kind: Kind) -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let metadata = ObjectBuilder::new()
        .property("resourceVersion", text)
        .required("resourceVersion");
    let items = ArrayBuilder::new().items(Ref::from_schema_name(kind.to_string()));
    ObjectBuilder::new()
        .property("items", items)
        .property("metadata", metadata)
        .required("items")
        .required("metadata")
        .into()
}

fn object_item(kind: Kind) -> PathItem {
    let name = kind.to_string();
    let one = |status: &str, text: &str| (status.to_owned(), json(text, &name));
    let (ok, created) = (one("200", "The object."), one("201", "The object is new."));
    let get = operation(kind.plural(), &format!("get{name}"), "Reads an object.")
        .response(ok.0.clone(), ok.1.clone());
    let put = operation(
        kind.plural(),
        &format!("put{name}"),
        "Creates or replaces an object.",
    )
    .parameter(if_match())
    .parameter(dry_run())
    .request_body(Some(
        RequestBodyBuilder::new()
            .content("application/json", content(&name))
            .required(Some(Required::True))
            .build(),
    ))
    .response(ok.0.clone(), ok.1.clone())
    .response(created.0, created.1);
    let delete = operation(
        kind.plural(),
        &format!("delete{name}"),
        "Deletes an object.",
    )
    .parameter(if_match())
    .parameter(dry_run())
    .response(ok.0, json("The last version of the object.", &name));
    let mut item = PathItem::new(HttpMethod::Get, in_path(get, true));
    item.put = Some(built(in_path(put, true)));
    item.delete = Some(built(in_path(delete, true)));
    item
}

fn list_item(kind: Kind, is_namespaced: bool) -> PathItem {
    let scope = if is_namespaced { "Namespaced" } else { "All" };
    let id = format!("list{scope}{kind}");
    let text =
        "Lists objects, or with `watch=true` tells what happens to them as server-sent events.";
    let watched = "With `watch=true`: events with data `{type: ADDED|MODIFIED|DELETED|ERROR, object}`. The objects \
                   that are there come first, unless a resourceVersion is given.";
    let both = ResponseBuilder::new()
        .description(watched)
        .content("application/json", content(&format!("{kind}List")))
        .content("text/event-stream", Content::default())
        .build();
    let operation = operation(kind.plural(), &id, text)
        .parameter(query("watch", "`true` to watch."))
        .parameter(query(
            "resourceVersion",
            "With `watch=true`: the write after which to go on; 410 where it is too long ago.",
        ))
        .response("200", both);
    let operation = if is_namespaced {
        in_path(operation, false)
    } else {
        operation
    };
    PathItem::new(HttpMethod::Get, operation)
}

fn operation(tag: &str, id: &str, summary: &str) -> OperationBuilder {
    let problem = ResponseBuilder::new()
        .description("Why not.")
        .content(PROBLEM_JSON, content("Problem"))
        .build();
    OperationBuilder::new()
        .tag(tag)
        .operation_id(Some(id))
        .summary(Some(summary))
        .response("default", problem)
}

fn built(operation: OperationBuilder) -> Operation {
    operation.build()
}

fn in_path(operation: OperationBuilder, has_name: bool) -> OperationBuilder {
    let parameter = |name: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build()
    };
    let operation = operation.parameter(parameter("namespace"));
    if has_name {
        operation.parameter(parameter("name"))
    } else {
        operation
    }
}

fn query(name: &str, description: &str) -> Parameter {
    optional(name, description, ParameterIn::Query)
}

fn dry_run() -> Parameter {
    let text = "`true` to be told what would come of it; nothing is written.";
    query("dryRun", text)
}

fn if_match() -> Parameter {
    let text = "The resourceVersion that must be in place, in quotes, or `*`; 409 where it is not.";
    optional("If-Match", text, ParameterIn::Header)
}

fn optional(name: &str, description: &str, place: ParameterIn) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

fn json(description: &str, schema: &str) -> Response {
    ResponseBuilder::new()
        .description(description)
        .content("application/json", content(schema))
        .build()
}

fn plain(description: &str, content_type: &str) -> Response {
    ResponseBuilder::new()
        .description(description)
        .content(content_type, Content::default())
        .build()
}

fn content(schema: &str) -> Content {
    Content::new(Some(Ref::from_schema_name(schema)))
}
