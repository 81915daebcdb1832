/**
 * Who of a connection's borrowers gets which message: by its thread, or by the thread that thread descends from. Bounded in
 * messages and in text; a borrower that falls behind loses its route and nobody else waits.
 */
import * as Cause from "effect/Cause"
import * as Queue from "effect/Queue"
import { type AppServerLost, BorrowerShed } from "../../services/AppServerFailure.ts"
import { type Incoming, threadQueueCapacity } from "../../services/AppServerProcess.ts"
import { maxFrameBytes } from "../../services/AppServerProtocol.ts"

/** Sub-agent threads remembered per connection; the oldest is forgotten, and its requests are then refused. */
const maxChildThreads = 4096
/** Unread text of one thread; as many messages as its queue holds could otherwise be gigabytes. Two of the longest lines. */
const maxUnreadCharacters = 2 * maxFrameBytes

type Inbox = Queue.Queue<Incoming, AppServerLost | BorrowerShed>

interface Route {
  readonly threadId: string
  readonly inbox: Inbox
  /** The lengths of the last messages, in a ring, to know how much text is unread. */
  readonly lengths: Array<number>
  offered: number
  taken: number
  unreadCharacters: number
}

export interface Routes {
  readonly ownerOf: (threadId: string) => Route | null
  /** A sub-agent's thread, named by a message about its parent. */
  readonly adopt: (child: string, parent: string) => void
  /** False when the borrower was too far behind, and is shed. */
  readonly offer: (route: Route, message: Incoming, length: number) => boolean
  readonly open: (threadId: string, inbox: Inbox) => Route
  /** Takes the thread's sub-agents along, and theirs. */
  readonly close: (route: Route) => void
  readonly failAll: (error: AppServerLost) => void
}

export const makeRoutes = (): Routes => {
  const routes = new Map<string, Route>()
  const parents = new Map<string, string>()

  /** A sub-agent's message to its parent names the parent in the same form; taken for a child it would close a circle. */
  const isAncestor = (candidate: string, threadId: string): boolean => {
    for (let id: string | undefined = threadId; id !== undefined; id = parents.get(id))
      if (id === candidate) return true
    return false
  }

  const shed = (route: Route): void => {
    if (routes.get(route.threadId) === route) routes.delete(route.threadId)
    const unread = Queue.sizeUnsafe(route.inbox)
    Queue.failCauseUnsafe(route.inbox, Cause.fail(new BorrowerShed({ threadId: route.threadId, unread })))
  }

  /** All generations; those below a thread with a route of its own stay with that one. */
  const forgetDescendants = (ancestor: string): void => {
    const children = Map.groupBy(parents.keys(), (child) => parents.get(child)!)
    const rest = [ancestor]
    for (let parent = rest.pop(); parent !== undefined; parent = rest.pop())
      for (const child of children.get(parent) ?? []) {
        parents.delete(child)
        if (!routes.has(child)) rest.push(child)
      }
  }

  return {
    ownerOf: (threadId) => {
      for (let id: string | undefined = threadId; id !== undefined; id = parents.get(id)) {
        const route = routes.get(id)
        if (route !== undefined) return route
      }
      return null
    },
    adopt: (child, parent) => {
      if (parents.has(child) || routes.has(child) || isAncestor(child, parent)) return
      if (parents.size >= maxChildThreads) parents.delete(parents.keys().next().value!)
      parents.set(child, parent)
    },
    offer: (route, message, length) => {
      for (const unread = Queue.sizeUnsafe(route.inbox); route.offered - route.taken > unread; route.taken++)
        route.unreadCharacters -= route.lengths[route.taken % threadQueueCapacity]!
      if (route.unreadCharacters + length > maxUnreadCharacters || !Queue.offerUnsafe(route.inbox, message)) {
        shed(route)
        return false
      }
      route.lengths[route.offered++ % threadQueueCapacity] = length
      route.unreadCharacters += length
      return true
    },
    open: (threadId, inbox) => {
      const route = { threadId, inbox, lengths: [], offered: 0, taken: 0, unreadCharacters: 0 }
      routes.set(threadId, route)
      return route
    },
    close: (route) => {
      if (routes.get(route.threadId) === route) routes.delete(route.threadId)
      forgetDescendants(route.threadId)
    },
    failAll: (error) => {
      for (const { inbox } of routes.values()) Queue.failCauseUnsafe(inbox, Cause.fail(error))
      routes.clear()
    }
  }
}
