//! Futures and streams whose work is counted for an account.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;

use crate::account::Account;
use crate::room;

/// A future or a stream that is polled, and dropped, in the scope of an account.
#[derive(Debug)]
pub struct Scoped<T> {
    /// `None` without an account, and while it is dropped.
    account: Option<Account>,
    inner: Option<T>,
}

impl Account {
    /// Lets a future or a stream work in the scope of this account.
    pub fn scope<T>(&self, inner: T) -> Scoped<T> {
        Scoped { account: Some(self.clone()), inner: Some(inner) }
    }
}

/// Lets a future or a stream that goes to another task work in the scope of the present account, if any.
pub fn inherit<T>(inner: T) -> Scoped<T> {
    Scoped { account: Account::current(), inner: Some(inner) }
}

/// The same for work that goes to another thread.
pub fn inherit_in<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let account = Account::current();
    move || match account {
        Some(account) => account.enter(work),
        None => work(),
    }
}

impl<T> Scoped<T> {
    fn poll<R>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        // It is `Some` until it is dropped.
        let Some(inner) = &mut self.inner else {
            return Poll::Pending;
        };
        match &self.account {
            Some(account) => account.enter(|| match room::is_held_up(context) {
                true => Poll::Pending,
                false => poll(inner, context),
            }),
            None => poll(inner, context),
        }
    }
}

impl<T: Future + Unpin> Future for Scoped<T> {
    type Output = T::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        self.get_mut().poll(context, |inner, context| Pin::new(inner).poll(context))
    }
}

impl<T: Stream + Unpin> Stream for Scoped<T> {
    type Item = T::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T::Item>> {
        self.get_mut().poll(context, |inner, context| Pin::new(inner).poll_next(context))
    }
}

impl<T> Drop for Scoped<T> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        if let Some(account) = self.account.take() {
            account.enter(|| drop(inner));
        }
    }
}
