//! `bulkhead ready`: what health checks ask.

use super::creds::causes;
use super::{Context, Outcome};
use crate::args::Ready;
use bulkhead_control::config::AdminConfig;
use bulkhead_control::files::read_text;
use reqwest::{StatusCode, Url};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

pub(super) async fn run(context: &Context, args: Ready) -> Outcome {
    let admin = context.config()?.admin;
    let timeout = std::time::Duration::try_from(args.timeout).ok().filter(|time| !time.is_zero());
    let timeout = timeout.ok_or("--timeout has to be more than nothing")?;
    let url = address(&admin, args.service.as_deref())?;
    // What is asked is in the configuration, and nobody else's to answer.
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .build()?;
    let mut request = client.get(url.clone());
    // What is missing is told to whoever has the token; it does not leave this machine.
    if args.service.is_none()
        && let Some(Ok(token)) = admin.token_file.as_deref().map(read_text)
    {
        request = request.bearer_auth(token.trim());
    }
    let answer = request.send().await.map_err(|error| {
        format!(
            "{url} cannot be asked: {}; see whether the service runs, and check admin.listen",
            causes(&error.without_url())
        )
    })?;
    let status = answer.status();
    let said = answer.text().await.unwrap_or_default();
    let missing: Vec<&str> = match status {
        StatusCode::OK => Vec::new(),
        StatusCode::SERVICE_UNAVAILABLE => {
            said.lines().filter(|line| *line != "not ready").collect()
        }
        _ => {
            let text = format!("{url} answered {status}, as no service does; check admin.listen");
            return Err(text.into());
        }
    };
    let is_ready = status == StatusCode::OK;
    context.output.print(&json!({"ready": is_ready, "missing": missing}), || {
        if is_ready {
            return "ready".to_owned();
        }
        missing.iter().fold("not ready".to_owned(), |text, what| text + "\nmissing: " + what)
    })?;
    Ok(ExitCode::from(if is_ready { 0 } else { crate::NOT_AS_IT_SHOULD_BE }))
}

/// Where a service is asked: where it listens on this machine, or on another host.
fn address(admin: &AdminConfig, service: Option<&str>) -> Result<Url, String> {
    let listen = admin.listen;
    let has_port = service.is_some_and(|host| {
        host.parse::<SocketAddr>().is_ok() || host.rsplit_once(':').is_some_and(is_host_and_port)
    });
    if listen.port() == 0 && !has_port {
        return Err(
            "admin.listen has port 0, so that nobody knows where it listens; name a port".into()
        );
    }
    let host = match service {
        Some(host) if has_port => host.to_owned(),
        Some(host) => match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, listen.port()).to_string(),
            Err(_) => format!("{host}:{}", listen.port()),
        },
        None => match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())).to_string()
            }
            IpAddr::V6(ip) if ip.is_unspecified() => {
                SocketAddr::from((Ipv6Addr::LOCALHOST, listen.port())).to_string()
            }
            _ => listen.to_string(),
        },
    };
    let url = Url::parse(&format!("http://{host}/readyz")).ok();
    url.filter(|url| url.path() == "/readyz" && url.query().is_none() && url.username().is_empty())
        .ok_or_else(|| format!("--service {host}: write a host, or host:port"))
}

fn is_host_and_port((host, port): (&str, &str)) -> bool {
    !host.contains(':') && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::address;
    use bulkhead_control::config::AdminConfig;

    fn asked(listen: &str, service: Option<&str>) -> Result<String, String> {
        let admin: AdminConfig =
            serde_json::from_value(serde_json::json!({"listen": listen})).unwrap();
        address(&admin, service).map(String::from)
    }

    #[test]
    fn a_service_is_asked_where_it_listens() {
        for (listen, service, url) in [
            ("0.0.0.0:9180", None, "http://127.0.0.1:9180/readyz"),
            ("[::]:9180", None, "http://[::1]:9180/readyz"),
            ("10.0.0.7:9181", None, "http://10.0.0.7:9181/readyz"),
            ("0.0.0.0:9180", Some("registry"), "http://registry:9180/readyz"),
            ("127.0.0.1:0", Some("registry:9182"), "http://registry:9182/readyz"),
            ("0.0.0.0:9180", Some("::1"), "http://[::1]:9180/readyz"),
            ("0.0.0.0:9180", Some("[::1]:9182"), "http://[::1]:9182/readyz"),
        ] {
            assert_eq!(asked(listen, service).as_deref(), Ok(url), "{listen} {service:?}");
        }
        for service in ["", "a/b", "a?b", "u:p@host", "a b"] {
            assert!(
                asked("0.0.0.0:9180", Some(service)).unwrap_err().contains("--service"),
                "{service}"
            );
        }
        assert!(asked("127.0.0.1:0", None).unwrap_err().contains("admin.listen"));
    }
}
