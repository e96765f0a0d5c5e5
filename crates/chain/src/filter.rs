//! Opening a filter: first the nodes below it, then the filter over them.
//!
//! A filter is a layer like an image, with nothing below it in the backing chain: what it reads comes from its
//! children. Called by [`open`](crate::open) alone.

use std::sync::Arc;

use diskimg_core::filter::{ChildRole, FilterChild, FilterDriver, FilterOpen, PROBED_NAME};
use diskimg_core::options::{RuntimeOptions, RuntimeValue};
use diskimg_core::{Error, Result};

use crate::generic::{Generic, first_unknown, take_only_text};
use crate::name::{DEFAULT_PROTOCOL, gate_name, parse_protocol};
use crate::node::{NodeMode, NodeParts};
use crate::open::{node_reference, open_chain};
use crate::request::Request;
use crate::shown::{Shown, ShownValue};
use crate::{Context, Node};

/// Opens the filter of a request whose generic options were taken out.
pub(crate) fn open_filter(
    ctx: &Context,
    filter: &'static FilterDriver,
    mut request: Request,
    generic: &Generic,
    mode: NodeMode,
) -> Result<NodeParts> {
    generic.check_write(request.usage.write)?;
    if let (Some(name), Some(prefix)) = (request.name.as_deref(), filter.prefix)
        && let Some(rest) = name.strip_prefix(prefix)
    {
        (filter.parse_name)(rest, &mut request.options)?;
        request.name = None;
    }
    for option in filter.files {
        if let Some(RuntimeValue::Str(name)) = request.options.get(option) {
            request.trust.admit(ctx, &gate_name(DEFAULT_PROTOCOL, name))?;
        }
    }
    let mut nodes = Vec::new();
    for role in filter.roles {
        if role.many {
            nodes.extend(open_numbered(ctx, *role, &mut request)?);
        } else {
            nodes.push((role.name.to_owned(), open_child(ctx, *role, role.name, &mut request)?));
        }
    }
    let given = request.options.clone();
    let write = request.usage.write;
    let children = nodes.iter().map(|(role, node)| filter_child(role, node)).collect();
    let (options, objects, opened) = (&mut request.options, &*ctx.objects, request.opened.clone());
    let image = (filter.open)(FilterOpen { children, write, options, objects, opened })?;
    if let Some(unknown) = first_unknown(&request.options) {
        let name = filter.node.name;
        return Err(Error::invalid(if filter.is_protocol {
            format!("Block protocol '{name}' doesn't support the option '{unknown}'")
        } else {
            format!("Block format '{name}' does not support the option '{unknown}'")
        }));
    }
    let first = nodes.first().filter(|_| filter.has_folder);
    let filename = first.map(|(_, node)| node.filename().to_owned()).unwrap_or_default();
    let no_folder = match first {
        Some((_, node)) => node.no_folder().map(str::to_owned),
        None => Some(filter.node.name.to_owned()),
    };
    Ok(NodeParts {
        image,
        shown: show(filter, &given, &nodes),
        filename,
        no_folder,
        format: filter.node.name,
        guessed: false,
        holder: None,
        inside: None,
        children: nodes,
        transparent: filter.is_transparent,
        watched: None,
        mode,
        request: None,
    })
}

fn filter_child(role: &str, node: &Node) -> FilterChild {
    FilterChild {
        role: role.to_owned(),
        device: Arc::new(node.clone()),
        image: Arc::clone(node.image()),
        format: node.format(),
    }
}

/// The children of a role of many, as they are numbered from 0 on.
fn open_numbered(ctx: &Context, role: ChildRole, request: &mut Request) -> Result<Vec<(String, Node)>> {
    let mut nodes = Vec::new();
    loop {
        let name = format!("{}.{}", role.name, nodes.len());
        let prefix = format!("{name}.");
        let is_given = request.options.iter().any(|(key, _)| key == name || key.starts_with(&prefix));
        if !is_given {
            return Ok(nodes);
        }
        nodes.push((name.clone(), open_child(ctx, role, &name, request)?));
    }
}

/// The child whose options begin with `prefix`; a name of the filter itself is that of the file below it.
fn open_child(ctx: &Context, role: ChildRole, prefix: &str, request: &mut Request) -> Result<Node> {
    let reference = take_only_text(&mut request.options, prefix);
    let mut options = request.options.take_child(prefix);
    if let Some(reference) = reference {
        return Err(node_reference(&reference, !options.is_empty()));
    }
    // A filter that was named in place of a format: the name is its file's.
    let name = if role.is_image { None } else { request.name.take() };
    let name = name.or_else(|| take_only_text(&mut options, PROBED_NAME));
    if options.is_empty() && name.is_none() {
        return Err(Error::invalid(format!("A block device must be specified for \"{prefix}\"")));
    }
    let mut child = request.inner(name, options, request.usage)?;
    if !role.is_image {
        name_protocol(ctx, &mut child)?;
    }
    open_chain(ctx, child)
}

/// A child without a driver is a file of the protocol that its name says.
fn name_protocol(ctx: &Context, child: &mut Request) -> Result<()> {
    if child.options.get("driver").is_some() {
        return Ok(());
    }
    let driver = match child.name.as_deref() {
        Some(name) if ctx.registry.filter_of_name(name).is_none() => {
            let (protocol, rest) = parse_protocol(&ctx.registry, name)?;
            child.name = Some(rest);
            protocol.name
        }
        Some(_) => return Ok(()),
        None if child.options.get("filename").is_some() => DEFAULT_PROTOCOL,
        None => return Err(Error::invalid("Must specify either driver or file")),
    };
    child.options.set("driver", RuntimeValue::Str(driver.to_owned()));
    Ok(())
}

fn show(filter: &FilterDriver, given: &RuntimeOptions, nodes: &[(String, Node)]) -> Shown {
    let text = |value: &str| ShownValue::Value(RuntimeValue::Str(value.to_owned()));
    let mut options = vec![("driver".to_owned(), text(filter.node.name))];
    let strong = given.iter().filter(|(name, _)| (filter.is_strong)(name));
    options.extend(strong.map(|(name, value)| (name.to_owned(), ShownValue::Value(value.clone()))));
    let is_bare = options.len() == 1;
    let names: Option<Vec<&str>> = nodes.iter().map(|(_, node)| node.shown().plain.as_deref()).collect();
    let plain = names.filter(|_| is_bare).and_then(|names| (filter.plain_name)(&names, given));
    let many = filter.roles.iter().find(|role| role.many);
    match many {
        Some(role) => {
            let list = nodes.iter().map(|(_, node)| node.shown().clone()).collect();
            options.push((role.name.to_owned(), ShownValue::List(list)));
        }
        None => {
            let shown =
                |(role, node): &(String, Node)| (role.clone(), ShownValue::Node(node.shown().clone()));
            options.extend(nodes.iter().map(shown));
        }
    }
    Shown { plain, options }
}
