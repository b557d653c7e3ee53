//! An activity that says that it has begun, and goes on once it is told.

use std::{pin::Pin, sync::Arc};

use stepwell::{ActivityContext, ActivityError};
use tokio::sync::Notify;

type Holding = Pin<Box<dyn Future<Output = Result<i32, ActivityError>> + Send>>;

/// It gives the attempt that it is.
pub fn held(
    begun: &Arc<Notify>,
    go_on: &Arc<Notify>,
) -> impl Fn(ActivityContext, ()) -> Holding + Clone + Send + Sync + 'static {
    let (begun, go_on) = (begun.clone(), go_on.clone());
    move |context, ()| {
        let (begun, go_on) = (begun.clone(), go_on.clone());
        Box::pin(async move {
            // The service knows of an attempt that has shown life, whatever becomes of its acknowledgement.
            context.heartbeat("begun")?;
            begun.notify_one();
            context.unless_cancelled(go_on.notified()).await?;
            Ok(context.info().attempt)
        })
    }
}
