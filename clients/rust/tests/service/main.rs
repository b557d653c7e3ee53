//! The client and its worker against a real service: the `stepwell-server` that `STEPWELL_SERVER` names, or the one on the
//! `PATH`. Without one the tests are skipped, or fail where `CI` is set.

mod calls;
mod held;
mod losses;
mod proxy;
mod server;
mod work;
