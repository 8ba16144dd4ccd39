export * as Deployment from "./deployment/Deployment.ts"
export * as RequestContext from "./core/RequestContext.ts"
export * as ServeError from "./core/ServeError.ts"
