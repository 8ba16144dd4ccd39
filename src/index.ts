export * as Deployment from "./deployment/Deployment.ts"
export * as HttpIngress from "./ingress/HttpIngress.ts"
export * as RequestContext from "./core/RequestContext.ts"
export * as ServeError from "./core/ServeError.ts"
